package attest

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/rootvouch/rootvouch/attest/attestd"
	"github.com/rootvouch/rootvouch/boot/bootlog"
	"github.com/rootvouch/rootvouch/internal/cli"
	"github.com/rootvouch/rootvouch/internal/cli/report"
	"github.com/rootvouch/rootvouch/internal/command"
	"github.com/rootvouch/rootvouch/kms/adminapi"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/snp"
	"github.com/rootvouch/rootvouch/snp/snpdev"
	"github.com/rootvouch/rootvouch/test/snpdevtest"
)

// bootedVM serves attestd for a launch until the test ends, and returns its
// address and boot log.
func bootedVM(t *testing.T, launch snpdevtest.Launch) (address string, log []byte) {
	t.Helper()
	device, err := snpdev.OpenPath(snpdev.VirtioPort, launch.Serve())
	if err != nil {
		t.Fatal(err)
	}
	log, err = bootlog.Log{Version: 1, DiskUUID: pins.UUID{1}, HeaderSHA256: pins.Digest{2}, RootHash: pins.Digest{3}, KeyGeneration: 1,
		KMSSPIFFEID: "spiffe://example.org/kms", Verification: "full", Steps: []bootlog.Step{{Name: "start"}}}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	server, err := attestd.New(attestd.Config{BootLog: log, Evidence: device.Evidence, Rand: rand.Reader, Now: time.Now(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- server.Serve(ctx, l) }()
	t.Cleanup(func() { cancel(); <-done })
	return l.Addr().String(), log
}

// keyServer serves the admin API's releases of one disk.
func keyServer(t *testing.T, releases ...adminapi.Release) (socket string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "kms") // short: a socket's path has 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	socket = filepath.Join(dir, "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+adminapi.PathDisks+"/"+pins.UUID{1}.String()+"/releases", func(w http.ResponseWriter, _ *http.Request) {
		json.NewEncoder(w).Encode(adminapi.Releases{Version: adminapi.Version, Releases: releases})
	})
	record := adminapi.Record{Header: pins.Header{DiskUUID: pins.UUID{1}}, Generation: 1, Measurements: []adminapi.Measurement{}}
	staged := record
	mux.HandleFunc("GET "+adminapi.PathDisks+"/"+pins.UUID{1}.String(), func(w http.ResponseWriter, _ *http.Request) {
		answer := record
		if len(releases) > 1 { // the new key is the one that the VM booted with
			answer.Generation, answer.Staged = 0, &staged
			if releases[1].Generation != 1 {
				answer.Staged = &adminapi.Record{Generation: releases[1].Generation, Measurements: []adminapi.Measurement{}}
			}
		}
		json.NewEncoder(w).Encode(answer)
	})
	mux.HandleFunc("POST "+adminapi.PathDisks+"/"+pins.UUID{1}.String()+"/confirm", func(w http.ResponseWriter, r *http.Request) {
		if got := r.URL.Query().Get("generation"); got != "1" {
			t.Errorf("generation %s is confirmed, want 1", got)
		}
		json.NewEncoder(w).Encode(record)
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	go server.Serve(l)
	t.Cleanup(func() { server.Close(); os.RemoveAll(dir) })
	return socket
}

func TestAttestCommand(t *testing.T) {
	sp := snpdevtest.New(t, time.Now())
	address, log := bootedVM(t, sp.Launch(snp.Measurement{1}, snp.ReportID{7}))
	good := snpdevtest.WriteValues(t, sp.Values(snp.Measurement{1}))
	other := snpdevtest.WriteValues(t, sp.Values(snp.Measurement{2}))
	release := adminapi.Release{DiskUUID: pins.UUID{1}, ReportID: snp.ReportID{7}, Generation: 1, Time: time.Now()}
	stranger := release
	stranger.ReportID = snp.ReportID{8}
	disk := pins.UUID{1}.String()
	confirm := func(releases ...adminapi.Release) []string {
		return []string{"--refval", good, "--release", "--confirm", "--kms-socket", keyServer(t, releases...), "--disk-uuid", disk}
	}
	for _, c := range []struct {
		name   string
		args   []string
		code   int
		stdout string // ends so
		wants  []string
	}{
		{"trusted", []string{"--refval", good}, 0, "\nverdict: trusted\n", []string{"instance: not checked\n", "emulated: NOT CONFIDENTIAL\n", "\nhardware:  ok, "}},
		{"verbose", []string{"--refval", good, "--verbose"}, 0, "\nverdict: trusted\n", []string{"ok      measurement: ", "boot log: SHA-256 "}},
		{"refused", []string{"--refval", other}, 1, "\nverdict: refused\n", []string{"FAILED  measurement"}},
		{"checked", []string{"--refval", good, "--release", "--kms-socket", keyServer(t, release), "--disk-uuid", disk}, 0, "\nverdict: trusted\n", []string{"instance: checked: "}},
		{"a twin", []string{"--refval", good, "--release", "--kms-socket", keyServer(t, stranger), "--disk-uuid", disk}, 1, "\nverdict: refused\n", []string{"instance: refused: "}},
		{"confirmed", confirm(release, release), 0, "\nverdict: trusted\n", nil},
		{"confirmed before", confirm(release), 0, "\nverdict: trusted\n", nil},
		{"another key is beside", confirm(release, adminapi.Release{Generation: 2}), 1, "\nverdict: trusted\n", nil},
		{"a twin confirms nothing", confirm(stranger, adminapi.Release{Generation: 2}), 1, "\nverdict: refused\n", nil},
		{"confirm without release", []string{"--refval", good, "--confirm"}, 64, "", nil},
		{"no disk named", []string{"--refval", good, "--release", "--kms-socket", "s"}, 64, "", nil},
		{"no KMS", []string{"--refval", good, "--release", "--kms-socket", "/nonexistent", "--disk-uuid", disk}, 2, "", nil},
		{"no refval", []string{"--refval", filepath.Join(sp.Collateral, "ark.crl")}, 2, "", nil},
		{"no such file", []string{"--refval", "/nonexistent"}, 2, "", nil},
		{"no VM", []string{"--refval", good, "--address", "127.0.0.1:1"}, 2, "", nil},
		{"JSON", []string{"--refval", good, "--json"}, 0, "}\n", []string{`"trusted": true`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			args := append([]string{"--address", address, "--collateral-dir", sp.Collateral}, c.args...)
			if code := command.Main(New(), args, &stdout, &stderr); code != c.code {
				t.Errorf("exit status is %d, want %d\n%s%s", code, c.code, &stdout, &stderr)
			}
			if !strings.HasSuffix(stdout.String(), c.stdout) || c.stdout == "" && stdout.Len() > 0 {
				t.Errorf("stdout does not end in %q:\n%s", c.stdout, &stdout)
			}
			for _, want := range c.wants {
				if !strings.Contains(stdout.String(), want) {
					t.Errorf("no %q in:\n%s", want, &stdout)
				}
			}
		})
	}
	out := filepath.Join(t.TempDir(), "boot.json")
	for _, code := range []int{0, 2} { // the second time the file is there
		var stdout, stderr bytes.Buffer
		if got := command.Main(New(), []string{"--address", address, "--collateral-dir", sp.Collateral, "--refval", good, "--boot-log-out", out}, &stdout, &stderr); got != code {
			t.Errorf("exit status is %d, want %d: %s", got, code, &stderr)
		}
	}
	if written, err := os.ReadFile(out); err != nil || !bytes.Equal(written, log) {
		t.Errorf("boot log is %q, %v, want %q", written, err, log)
	}
}

// What --bundle keeps, report verify --bundle judges again.
func TestBundle(t *testing.T) {
	sp := snpdevtest.New(t, time.Now())
	address, _ := bootedVM(t, sp.Launch(snp.Measurement{1}, snp.ReportID{7}))
	good := snpdevtest.WriteValues(t, sp.Values(snp.Measurement{1}))
	other := snpdevtest.WriteValues(t, sp.Values(snp.Measurement{2}))
	bundle := filepath.Join(t.TempDir(), "proof.json")
	run := func(cmd *cobra.Command, args ...string) (int, string) {
		var out bytes.Buffer
		code := command.Main(cmd, args, &out, &out)
		return code, out.String()
	}
	keep := []string{"--address", address, "--collateral-dir", sp.Collateral, "--refval", good, "--bundle", bundle}
	if code, out := run(New(), keep...); code != 0 {
		t.Fatalf("exit status is %d\n%s", code, out)
	}
	if code, out := run(New(), keep...); code != exitNoJudgement {
		t.Errorf("the bundle is there already: exit status is %d\n%s", code, out)
	}
	for _, row := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"--refval", good}, 0, "\nverdict: trusted as of 20"},
		{[]string{"--refval", good, "--json"}, 0, `"trusted": false`},
		{[]string{"--refval", other}, 1, "FAILED  measurement"},
		{[]string{"--refval", good, "--crl", good}, 3, ""},
		{[]string{"--refval", good, "--at", "2026-01-01T00:00:00Z"}, 64, "--at does not go with --bundle"},
		{[]string{"--refval", good, "--report", bundle}, 64, "--report does not go with --bundle"},
		{nil, 64, "--refval is missing"},
	} {
		code, out := run(report.New(), append([]string{"verify", "--bundle", bundle}, row.args...)...)
		if code != row.code || !strings.Contains(out, row.want) {
			t.Errorf("%v: exit status is %d, want %d and %q in\n%s", row.args, code, row.code, row.want, out)
		}
	}
	if code, out := run(report.New(), "verify", "--bundle", good, "--refval", good); code != 3 || !strings.Contains(out, "decoding bundle") {
		t.Errorf("no bundle: exit status is %d\n%s", code, out)
	}
}

// The boot log is written for evidence that vouches for it, and for no other; the
// evidence is, whatever it is worth.
func TestBootLogOut(t *testing.T) {
	sp, rogue := snpdevtest.New(t, time.Now()), snpdevtest.New(t, time.Now())
	good := snpdevtest.WriteValues(t, sp.Values(snp.Measurement{1}))
	dir := t.TempDir()
	for _, c := range []struct {
		name    string
		launch  snpdevtest.Launch
		written bool
	}{
		{"refused by policy", sp.Launch(snp.Measurement{2}, snp.ReportID{7}), true},
		{"not authentic", rogue.Launch(snp.Measurement{1}, snp.ReportID{7}), false},
	} {
		address, log := bootedVM(t, c.launch)
		out, evidence := filepath.Join(dir, c.name), filepath.Join(dir, c.name+".evidence")
		var stdout, stderr bytes.Buffer
		if code := command.Main(New(), []string{"--address", address, "--collateral-dir", sp.Collateral, "--refval", good, "--boot-log-out", out, "--evidence-out", evidence}, &stdout, &stderr); code != exitRefused {
			t.Errorf("%s: exit status is %d, want %d: %s", c.name, code, exitRefused, &stderr)
		}
		written, err := os.ReadFile(out)
		if (err == nil) != c.written || c.written && !bytes.Equal(written, log) {
			t.Errorf("%s: boot log is %q, %v", c.name, written, err)
		}
		if _, err := cli.ReadReport(evidence, cli.KindAuto); err != nil {
			t.Errorf("%s: reading the evidence: %v", c.name, err)
		}
	}
}
