package e2e

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rootvouch/rootvouch/demo"
	"github.com/rootvouch/rootvouch/internal/needs"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/platform"
	"github.com/rootvouch/rootvouch/platform/asp"
	"github.com/rootvouch/rootvouch/refval"
	"github.com/rootvouch/rootvouch/test/attack"
	"github.com/rootvouch/rootvouch/test/vmtest"
)

// chain is a trust domain with everything that a VM needs to boot. All tests of
// this package share one chain, and leave it as they found it.
type chain struct {
	*demo.Domain
	web  demo.Guest // a Debian root, its key registered
	chip *asp.Chip  // vouches for every VM

	values  []refval.Values // accepted by the SPIRE server
	secrets []attack.Secret // of web, which no host may see
}

// shared is set by the first test that needs a chain, and ended by TestMain.
var shared struct {
	once  sync.Once
	chain *chain
	dir   string
	err   error
}

func TestMain(m *testing.M) {
	status := m.Run()
	if shared.chain != nil {
		shared.chain.Stop()
	}
	if shared.dir != "" {
		os.RemoveAll(shared.dir)
	}
	os.Exit(status)
}

// setUp returns the chain. It skips the test unless this is `make test`.
func setUp(t *testing.T) *chain {
	t.Helper()
	needs.Boot(t)
	shared.once.Do(func() { shared.err = start(t) })
	if shared.err != nil {
		t.Fatalf("setting up the chain: %v", shared.err)
	}
	return shared.chain
}

func start(t *testing.T) error {
	ctx := context.Background() // outlives the first test
	parts, err := demo.FindParts(filepath.Join(needs.Repository(t), "bin"), needs.Cache(t))
	if err != nil {
		return err
	}
	// A short path: that of a unix socket has 107 bytes at most.
	if shared.dir, err = os.MkdirTemp("", "rv-e2e-"); err != nil {
		return err
	}
	d, err := demo.NewDomain(parts, shared.dir, filepath.Join(shared.dir, "logs"))
	if err != nil {
		return err
	}
	c := &chain{Domain: d}
	shared.chain = c
	if err := d.MakeRoots(ctx); err != nil {
		return err
	}
	if c.chip, err = asp.Open(d.AMDSP()); err != nil {
		return err
	}
	c.web = demo.Guest{Dir: filepath.Join(shared.dir, "web"), Name: "web"}
	if err := c.build(ctx, t, c.web, parts.Root, nil); err != nil {
		return err
	}
	if c.secrets, err = secretsOf(d, c.web, parts.Root); err != nil {
		return err
	}
	if err := d.StartSPIRE(ctx); err != nil {
		return err
	}
	if err := d.StartKMS(ctx); err != nil {
		return err
	}
	return c.register(ctx, c.web)
}

// build makes a guest's files and adds its measurement to what the SPIRE server
// accepts. Arguments go to `initramfs config` and `image build`.
func (c *chain) build(ctx context.Context, t *testing.T, g demo.Guest, root string, config []string, image ...string) error {
	if err := os.MkdirAll(g.Dir, 0o755); err != nil {
		return err
	}
	if err := c.BuildImage(ctx, g, root, image...); err != nil {
		return err
	}
	return c.buildInitramfs(ctx, t, g, config...)
}

// buildInitramfs makes what is measured of a guest whose disk is there.
func (c *chain) buildInitramfs(ctx context.Context, t *testing.T, g demo.Guest, config ...string) error {
	if err := c.BuildKernel(ctx, g); err != nil {
		return err
	}
	if err := c.BuildInitramfs(ctx, g, needs.Cache(t), config...); err != nil {
		return err
	}
	if err := c.Measure(ctx, g); err != nil {
		return err
	}
	return c.trust(g)
}

// trust adds a guest's reference values to those of the SPIRE server, which come
// in one file: they differ in their measurements and pins alone.
func (c *chain) trust(g demo.Guest) error {
	data, err := os.ReadFile(g.Refval())
	if err != nil {
		return err
	}
	values, err := refval.Decode(data)
	if err != nil {
		return err
	}
	c.values = append(c.values, values)
	return c.writeTrust(c.values)
}

func (c *chain) writeTrust(all []refval.Values) error {
	joined := all[0]
	joined.Measurements = nil
	for _, v := range all {
		joined.Measurements = append(joined.Measurements, v.Measurements...)
	}
	joined.Pins = refval.Any[pins.Pins]()
	data, err := joined.Encode()
	if err != nil {
		return err
	}
	return c.TrustValues(data)
}

func (c *chain) register(ctx context.Context, g demo.Guest) error {
	if err := c.Register(ctx, g); err != nil {
		return err
	}
	return c.PutKey(ctx, g)
}

// machine returns the VM of a guest.
func (c *chain) machine(t *testing.T, g demo.Guest) platform.Guest {
	t.Helper()
	vm := vmtest.Guest(t)
	vm.VCPUs, vm.CPUType = demo.VCPUs, demo.CPUType
	vm.Initramfs, vm.Disk = g.Initramfs(), g.Disk()
	return vm
}

// boot launches a guest as it was built.
func (c *chain) boot(t *testing.T, g demo.Guest) *vmtest.Machine {
	t.Helper()
	return c.watch(t, c.machine(t, g))
}

// bootDisk launches the web guest with another disk.
func (c *chain) bootDisk(t *testing.T, disk string) *vmtest.Machine {
	t.Helper()
	vm := c.machine(t, c.web)
	vm.Disk = disk
	return c.watch(t, vm)
}

// guest is a variant of the web guest, in a directory of its own.
func (c *chain) guest(t *testing.T, name string) demo.Guest {
	t.Helper()
	return demo.Guest{Dir: t.TempDir(), Name: name}
}

// sameDisk gives a guest the web guest's disk and pins.
func (c *chain) sameDisk(t *testing.T, g demo.Guest) {
	t.Helper()
	for from, to := range map[string]string{c.web.Disk(): g.Disk(), c.web.Pins(): g.Pins()} {
		if err := os.Symlink(from, to); err != nil {
			t.Fatal(err)
		}
	}
}

func (c *chain) pins(t *testing.T, g demo.Guest) pins.Pins {
	t.Helper()
	data, err := os.ReadFile(g.Pins())
	if err != nil {
		t.Fatal(err)
	}
	p, err := pins.Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// keys runs a command on the web guest's record.
func (c *chain) keys(t *testing.T, verb string, args ...string) {
	t.Helper()
	args = append([]string{"keys", verb, "--kms-socket", c.KMSSocket()}, args...)
	must(t)(c.Rootvouch(t.Context(), args...))
}

// audited fails the test unless the KMS's log gets a leaf behind the given position that
// contains all texts.
func (c *chain) audited(t *testing.T, since int, texts ...string) {
	t.Helper()
	var log string
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		log = c.auditLog(t)[since:]
		for line := range strings.Lines(log) {
			var leaf map[string]any
			if err := json.Unmarshal([]byte(line), &leaf); err != nil {
				t.Fatalf("the log has a line that is no JSON: %q", line)
			}
			all := true
			for _, text := range texts {
				all = all && strings.Contains(line, text)
			}
			if all {
				return
			}
		}
	}
	t.Errorf("no leaf with %q in:\n%s", texts, log)
}

// auditLog returns the present content of the KMS's log, as lines of `audit
// export`.
func (c *chain) auditLog(t *testing.T) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), c.Parts.KMS, "audit", "export", "--jsonl", c.KMSLog()).Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// must fails the test on a command's error.
func must(t *testing.T) func([]byte, error) []byte {
	return func(out []byte, err error) []byte {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
}
