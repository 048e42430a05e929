package host

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/rootvouch/rootvouch/internal/command"
	"github.com/rootvouch/rootvouch/platform"
	"github.com/rootvouch/rootvouch/snp"
	"github.com/rootvouch/rootvouch/snp/snphost"
)

func run(cmd *cobra.Command, args ...string) (int, string) {
	var text bytes.Buffer
	return command.Main(cmd, args, &text, &text), text.String()
}

func TestIdentify(t *testing.T) {
	id := snphost.Identity{Version: 1, Product: snp.Genoa, CPUID: snp.Genoa.Example(), ChipIDs: []snp.ChipID{{1}, {2}},
		CurrentTCB: 10, ReportedTCB: 10, Firmware: snphost.Firmware{Major: 1, Minor: 55}, Initialized: true, SignsWithVLEK: true}
	path := filepath.Join(t.TempDir(), "host.json")
	code, text := run(newIdentifyCommand(func() (snphost.Identity, error) { return id, nil }), "--out", path)
	data, err := os.ReadFile(path)
	if code != 0 || err != nil {
		t.Fatalf("status %d, %v\n%s", code, err, text)
	}
	if again, err := snphost.Decode(data); err != nil || again.ChipIDs[1] != id.ChipIDs[1] {
		t.Errorf("wrote %s, %v", data, err)
	}
	for _, want := range []string{"product: Genoa", "bootloader=10", "chip: 0200", "note: a VLEK"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in:\n%s", want, text)
		}
	}
	for _, c := range []struct {
		err  error
		want string
	}{
		{fmt.Errorf("opening: %w", fs.ErrPermission), "as root"},
		{fmt.Errorf("opening: %w", fs.ErrNotExist), "host check"},
		{errors.New("firmware error is 0x1a"), "0x1a"},
	} {
		code, text := run(newIdentifyCommand(func() (snphost.Identity, error) { return snphost.Identity{}, c.err }), "--out", path+"2")
		if _, err := os.Stat(path + "2"); code != 1 || err == nil || !strings.Contains(text, c.want) {
			t.Errorf("%v: status %d, file: %v, text %q, want one with %q", c.err, code, err, text, c.want)
		}
	}
}

func TestTell(t *testing.T) {
	cmd := &cobra.Command{Use: "x", RunE: func(cmd *cobra.Command, _ []string) error {
		return tell(cmd, []platform.Finding{{What: "/dev/kvm"}, {What: "/dev/sev", Err: fs.ErrNotExist, Advice: "load ccp"}})
	}}
	if code, text := run(cmd); code != 1 || text != "ok      /dev/kvm\nLACKING /dev/sev: file does not exist\n        load ccp\n" {
		t.Errorf("status %d\n%s", code, text)
	}
	if code, text := run(&cobra.Command{Use: "x", RunE: func(cmd *cobra.Command, _ []string) error { return tell(cmd, []platform.Finding{{What: "QEMU"}}) }}); code != 0 || text != "ok      QEMU\n" {
		t.Errorf("status %d\n%s", code, text)
	}
}

// A file that is no firmware will do for nothing.
func TestCheckFirmware(t *testing.T) {
	for _, f := range checkFirmware(make([]byte, 4096)) {
		if f.Err == nil || f.Advice == "" {
			t.Errorf("%s: %v (%s)", f.What, f.Err, f.Advice)
		}
	}
}
