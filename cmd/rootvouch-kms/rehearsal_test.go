package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/rootvouch/rootvouch/evidence"
	"github.com/rootvouch/rootvouch/internal/cli/image"
	"github.com/rootvouch/rootvouch/internal/cli/keys"
	"github.com/rootvouch/rootvouch/internal/command"
	"github.com/rootvouch/rootvouch/internal/needs"
	"github.com/rootvouch/rootvouch/kms/fetchkey"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/refval"
	"github.com/rootvouch/rootvouch/snp"
)

// asCommand makes the test's own binary the command by whose name it was started.
func asCommand() {
	switch filepath.Base(os.Args[0]) {
	case "rootvouch-kms":
		os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
	case "rootvouch":
		root := &cobra.Command{Use: "rootvouch"}
		root.AddCommand(keys.New(), image.New())
		os.Exit(command.Main(root, os.Args[1:], os.Stdout, os.Stderr))
	}
}

// rehearsal returns the shell blocks of docs/kms.md's section.
func rehearsal(t *testing.T) (blocks []string) {
	t.Helper()
	page, err := os.ReadFile(filepath.Join(needs.Repository(t), "docs", "kms.md"))
	must(t, err)
	_, section, found := strings.Cut(string(page), "\n## Rehearse it on one machine\n")
	if !found {
		t.Fatal("docs/kms.md has no such section")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	for {
		_, rest, found := strings.Cut(section, "\n```sh\n")
		if !found {
			return blocks
		}
		block, after, found := strings.Cut(rest, "\n```\n")
		if !found {
			t.Fatal("a block has no end")
		}
		blocks, section = append(blocks, block), after
	}
}

// shell is bash, to which blocks are typed one after the other.
type shell struct {
	t   *testing.T
	in  io.Writer
	out *bufio.Reader
	err bytes.Buffer
}

func newShell(t *testing.T, dir string, env ...string) *shell {
	t.Helper()
	s := &shell{t: t}
	cmd := exec.Command("bash", "--noprofile", "--norc", "-m")
	cmd.Dir, cmd.Env, cmd.Stderr = dir, append(os.Environ(), env...), &s.err
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	s.in, s.out = in, bufio.NewReader(out)
	t.Cleanup(func() {
		io.WriteString(in, "\nkill $(jobs -p) 2>/dev/null; wait; exit\n")
		in.Close()
		cmd.Wait()
	})
	return s
}

// run types a block, and returns what it prints.
func (s *shell) run(block string) string {
	s.t.Helper()
	const end = "#the block ends with "
	if _, err := io.WriteString(s.in, "set -uo pipefail; trap 'failed=1' ERR; failed=0\n"+block+"\necho '"+end+"'$failed\n"); err != nil {
		s.t.Fatal(err)
	}
	var text strings.Builder
	for {
		line, err := s.out.ReadString('\n')
		if err != nil {
			s.t.Fatalf("block ends early: %v\n%s\n%s%s", err, block, &text, &s.err)
		}
		if status, ended := strings.CutPrefix(line, end); ended {
			if status != "0\n" {
				s.t.Fatalf("block fails:\n%s\n%s%s", block, &text, &s.err)
			}
			return text.String()
		}
		text.WriteString(line)
	}
}

// TestRehearsal types the page's section into a shell: from nothing to a server with a disk, its
// backup, the loss of its store, a change of the key-encryption key.
func TestRehearsal(t *testing.T) {
	r := newRig(t)
	blocks := rehearsal(t)
	if len(blocks) != 5 {
		t.Fatalf("the section has %d blocks, want 5", len(blocks))
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	address := free.Addr().String()
	free.Close()
	bin := filepath.Join(r.dir, "bin")
	must(t, os.Mkdir(bin, 0o755))
	self, err := os.Executable()
	must(t, err)
	for _, name := range []string{"rootvouch", "rootvouch-kms"} {
		must(t, os.Symlink(self, filepath.Join(bin, name)))
	}
	must(t, os.Remove(r.config))
	s := newShell(t, r.dir, "PATH="+bin+":"+os.Getenv("PATH"), "agent="+r.path("agent.sock"))
	s.run("mkdir -p root/etc; echo web >root/etc/hostname\nrootvouch image build --root root --out disk.img --key-out disk.key --pins-out pins.json >&2")
	data, err := os.ReadFile(r.path("pins.json"))
	must(t, err)
	p, err := pins.Decode(data)
	must(t, err)
	v := refval.New(refval.EmulatedARK(r.chip.Chain.ARKDigest()), []refval.Measurement{{Digest: snp.Measurement{0x4d, 1}, HostCode: refval.HostCodeNone, Kernel: refval.KernelMeasured,
		Provenance: refval.Provenance{KernelSHA256: pins.Digest{1}}, Gate: refval.GateNone, VCPUs: 1, CPUType: "EPYC-v4"}})
	values, err := v.Encode()
	must(t, err)
	must(t, os.WriteFile(r.path("refval.json"), values, 0o600))
	launch := func(id byte) error {
		_, err := fetchkey.Fetch(t.Context(), fetchkey.Config{
			Disk: p.DiskUUID, Addresses: []string{address}, ServerID: kmsID, Patience: 20 * time.Second,
			Identity: func(context.Context) (fetchkey.Identity, error) {
				id := r.agent.identity(vmID)
				return id, nil
			},
			Evidence: func(data [64]byte) (evidence.Evidence, error) {
				report := r.chip.Unsigned(t, data)
				report.ReportID = snp.ReportID{id}
				return r.chip.Sign(t, report), nil
			},
		})
		return err
	}
	wants := func(text string, all ...string) {
		t.Helper()
		for _, want := range all {
			if !strings.Contains(text, want) {
				t.Errorf("the block prints\n%s, want %q", text, want)
			}
		}
	}

	wants(s.run(strings.ReplaceAll(blocks[0], "127.0.0.1:8443", address)), "made store", "ok    key-encryption key", "registered disk "+p.DiskUUID.String())
	must(t, launch(1))
	wants(s.run(blocks[1]), "wrote backup.db")
	must(t, launch(2)) // after the backup
	wants(s.run(blocks[2]), "releases among them", "ok    store and log")
	if err := launch(2); !errors.Is(err, fetchkey.ErrRefused) {
		t.Errorf("a launch of after the backup: got error %v, want a refusal", err)
	}
	must(t, launch(3))
	wants(s.run(blocks[3]), `sealed 2 secrets anew under key-encryption key "second"`, `in use: ["second"]`)
	must(t, launch(4))
	wants(s.run(blocks[4]), "deleted disk", "restored disk", "is enabled, generation 1")
	must(t, launch(5))
	out, err := do("audit", "replay", r.path("log"))
	must(t, err)
	t.Log(out)
}
