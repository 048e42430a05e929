package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
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
	"github.com/rootvouch/rootvouch/test/etcdtest"
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

// rehearsal returns the shell blocks of a section of docs/kms.md, which has so many.
func rehearsal(t *testing.T, title string, want int) (blocks []string) {
	t.Helper()
	page, err := os.ReadFile(filepath.Join(needs.Repository(t), "docs", "kms.md"))
	must(t, err)
	_, section, found := strings.Cut(string(page), "\n## "+title+"\n")
	if !found {
		t.Fatal("docs/kms.md has no such section")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	for {
		_, rest, found := strings.Cut(section, "\n```sh\n")
		if !found {
			if len(blocks) != want {
				t.Fatalf("the section %q has %d blocks, want %d", title, len(blocks), want)
			}
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
	blocks := rehearsal(t, "Rehearse it on one machine", 5)
	address := freeAddress(t)
	s, disk := r.withDisk()
	launch := func(id byte) error { return r.boot(disk, id, address) }
	wants := func(text string, all ...string) {
		t.Helper()
		wantsText(t, text, all...)
	}

	wants(s.run(strings.ReplaceAll(blocks[0], "127.0.0.1:8443", address)), "made store", "ok    key-encryption key", "registered disk "+disk.String())
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
func freeAddress(t *testing.T) string {
	t.Helper()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer free.Close()
	return free.Addr().String()
}

// withDisk makes what a section begins with: a shell with the commands in its path, a disk, its
// key, pins and reference values.
func (r *rig) withDisk(env ...string) (*shell, pins.UUID) {
	t := r.t
	t.Helper()
	bin := filepath.Join(r.dir, "bin")
	must(t, os.Mkdir(bin, 0o755))
	self, err := os.Executable()
	must(t, err)
	for _, name := range []string{"rootvouch", "rootvouch-kms"} {
		must(t, os.Symlink(self, filepath.Join(bin, name)))
	}
	must(t, os.Remove(r.config))
	s := newShell(t, r.dir, append(env, "PATH="+bin+":"+os.Getenv("PATH"), "agent="+r.path("agent.sock"))...)
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
	return s, p.DiskUUID
}

// boot asks as a launch does, all addresses in turn.
func (r *rig) boot(disk pins.UUID, id byte, addresses ...string) error {
	_, err := fetchkey.Fetch(r.t.Context(), fetchkey.Config{
		Disk: disk, Addresses: addresses, ServerID: kmsID, Patience: 20 * time.Second,
		Identity: func(context.Context) (fetchkey.Identity, error) {
			id := r.agent.identity(vmID)
			return id, nil
		},
		Evidence: func(data [64]byte) (evidence.Evidence, error) {
			report := r.chip.Unsigned(r.t, data)
			report.ReportID = snp.ReportID{id}
			return r.chip.Sign(r.t, report), nil
		},
	})
	return err
}

func wantsText(t *testing.T, text string, all ...string) {
	t.Helper()
	for _, want := range all {
		if !strings.Contains(text, want) {
			t.Errorf("the block prints\n%s, want %q", text, want)
		}
	}
}

// TestRehearsalOfThree types the page's section about three servers, against a real cluster.
func TestRehearsalOfThree(t *testing.T) {
	cluster := etcdtest.Start(t, 3)
	r := newRig(t)
	blocks := rehearsal(t, "Rehearse three servers on one machine", 4)
	etcd, err := json.Marshal(cluster.Source("rootvouch-kms/"))
	must(t, err)
	s, disk := r.withDisk("etcd=" + string(etcd))
	var addresses, ports []string
	for range 3 {
		address := freeAddress(t)
		_, port, err := net.SplitHostPort(address)
		must(t, err)
		addresses, ports = append(addresses, address), append(ports, port)
	}
	must(t, os.WriteFile(r.path("ports"), []byte(strings.Join(ports, " ")+"\n"), 0o600))
	wantsText(t, s.run(strings.ReplaceAll(blocks[0], "127.0.0.1:844$n", "127.0.0.1:$(cut -d' ' -f$n ports)")),
		"made key-encryption key", "registered replica kms2", "registered replica kms3", "registered disk "+disk.String())
	must(t, r.boot(disk, 1, addresses...))
	s.run(blocks[1])
	must(t, r.boot(disk, 2, addresses...))
	if err := r.boot(disk, 1, addresses[1:]...); !errors.Is(err, fetchkey.ErrRefused) {
		t.Errorf("a launch that had the key of the server that is lost: got error %v, want a refusal", err)
	}
	wantsText(t, s.run(blocks[2]), "registered replica kms1")
	must(t, r.boot(disk, 3, addresses[0]))
	said := strings.Split(strings.TrimSpace(s.run(blocks[3])), "\n")
	if len(said) != 3 || said[0] != said[1] || said[0] != said[2] || !strings.HasPrefix(said[0], "3 releases were judged again") {
		t.Errorf("the logs say %q, want 3 releases in each", said)
	}
}
