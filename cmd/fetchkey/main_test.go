package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rootvouch/rootvouch/boot/bootconfig"
	"github.com/rootvouch/rootvouch/boot/cmdline"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/test/spiffetest"
)

// TestMain lets the test binary be fetchkey itself.
func TestMain(m *testing.M) {
	if os.Getenv("FETCHKEY_TEST_MAIN") == "1" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func bootJSON(t *testing.T) string {
	t.Helper()
	verity := pins.Verity{RootHash: pins.Digest{1}, DataBlocks: 1, HashOffset: 4096, PayloadOffset: 1 << 20, PayloadSize: 12288}
	data, err := bootconfig.Config{
		Version: 1, TrustDomain: "example.org",
		SPIRE:   bootconfig.SPIRE{Addresses: []string{"127.0.0.1:1"}, TrustRoot: spiffetest.New(t).PEM()},
		KMS:     bootconfig.KMS{Addresses: []string{"127.0.0.1:1"}, SPIFFEID: "spiffe://example.org/kms"},
		Disk:    bootconfig.Disk{Verity: verity, Filesystem: pins.EROFS, Init: pins.InitOK},
		Network: bootconfig.Network{Mode: bootconfig.NetworkDHCP}, ReportDevice: bootconfig.ReportVirtioPort,
		CommandLine: cmdline.Default(), Devices: bootconfig.DevicesOwn, Gate: bootconfig.GateNone,
		Verification: bootconfig.VerificationFull, ClockFloor: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
	}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "boot.json")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestOneLine fails in many ways: each time with exit status 1, one line that
// names the step, and nothing in the pipe.
func TestOneLine(t *testing.T) {
	boot := bootJSON(t)
	broken := filepath.Join(t.TempDir(), "boot.json")
	if err := os.WriteFile(broken, []byte(`{"version":2}`), 0o600); err != nil {
		t.Fatal(err)
	}
	disk := pins.UUID{1}.String()
	for _, c := range []struct {
		name string
		args []string
		want string
	}{
		{"no flag known", []string{"-nonsense"}, "fetchkey: config: parsing flags"},
		{"argument", []string{"-boot-config", boot, "now"}, `fetchkey: config: got argument "now"`},
		{"no configuration", []string{"-boot-config", boot + "x", "-disk-uuid", disk}, "fetchkey: config: reading boot configuration"},
		{"broken configuration", []string{"-boot-config", broken, "-disk-uuid", disk}, "fetchkey: config: decoding boot configuration"},
		{"no disk", []string{"-boot-config", boot}, "fetchkey: config: -disk-uuid"},
		{"no device", []string{"-boot-config", boot, "-disk-uuid", disk}, "fetchkey: config: report device"},
	} {
		t.Run(c.name, func(t *testing.T) {
			reader, writer, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer reader.Close()
			cmd := exec.Command(os.Args[0], c.args...)
			cmd.Env = []string{"FETCHKEY_TEST_MAIN=1"}
			cmd.ExtraFiles = []*os.File{writer}
			var stdout, stderr bytes.Buffer
			cmd.Stdout, cmd.Stderr = &stdout, &stderr
			err = cmd.Run()
			writer.Close()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != 1 {
				t.Errorf("got %v, want exit status 1", err)
			}
			line := stderr.String()
			if !strings.HasPrefix(line, c.want) || strings.Count(line, "\n") != 1 || !strings.HasSuffix(line, "\n") || stdout.Len() > 0 {
				t.Errorf("got %q and %q, want one line with %q", line, stdout.String(), c.want)
			}
			if n, _ := reader.Read(make([]byte, 1)); n != 0 {
				t.Error("there is something in the pipe")
			}
		})
	}
}
