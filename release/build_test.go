package release

import (
	"bytes"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/google/go-cmp/cmp"

	"github.com/rootvouch/rootvouch/boot/bootconfig"
	"github.com/rootvouch/rootvouch/boot/cmdline"
	"github.com/rootvouch/rootvouch/image"
	"github.com/rootvouch/rootvouch/initramfs"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/test/firmwaretest"
	"github.com/rootvouch/rootvouch/test/initramfstest"
	"github.com/rootvouch/rootvouch/test/spiffetest"
)

func sum(data []byte) pins.Digest { return sha256.Sum256(data) }

func testPins(n byte) pins.Pins {
	p := initramfstest.Pins()
	p.DiskUUID[0], p.RootHash[0] = n, n
	return p
}

// inputs makes everything that a vm.json names, small, and the file.
func inputs(t *testing.T) (dir string, document map[string]any) {
	t.Helper()
	dir = t.TempDir()
	var programs []string
	for _, p := range initramfs.GuestBinaries() {
		programs = append(programs, path.Base(p))
	}
	initramfstest.Files{
		"root/etc/os-release":  []byte("ID=test\n"),
		"root/etc/resolv.conf": []byte("# a note is about this\n"),
		"root/sbin/init":       initramfstest.Program(elf.ET_EXEC, elf.PT_LOAD),
		"root.pem":             []byte(spiffetest.New(t, spiffetest.Until(time.Date(2036, 1, 1, 0, 0, 0, 0, time.UTC))).PEM()),
		"firmware.fd":          firmwaretest.AmdSev().Bytes(),
		"ark.der":              arkDER(t),
	}.WriteTo(t, dir)
	if err := os.Chmod(filepath.Join(dir, "root/sbin/init"), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir, map[string]any{
		"version": 1, "name": "web", "trust_domain": "example.org",
		"root":     map[string]any{"path": "root"},
		"kernel":   map[string]any{"trees": []string{initramfstest.Kernel(t)}},
		"firmware": "firmware.fd", "guest_bin": initramfstest.GuestBin(t, programs...),
		"command_line": []string{"quiet"},
		"shapes":       map[string]any{"vcpus": []int{1, 2}, "cpu_types": []string{"EPYC-v4", "EPYC-Genoa"}},
		"trust":        map[string]any{"root": "emulated", "ark": "ark.der"},
		"spire":        map[string]any{"addresses": []string{"10.0.2.2:8081"}, "trust_root": "root.pem", "socket": "/run/spire.sock", "refval_dir": "/etc/refvals"},
		"kms":          map[string]any{"addresses": []string{"10.0.2.2:8443"}, "socket": "/run/kms.sock"},
		"accept":       []string{AcceptFirmware, AcceptKernel},
	}
}

func decode(t *testing.T, dir string, document map[string]any) (VM, error) {
	t.Helper()
	data, err := json.Marshal(document)
	if err != nil {
		t.Fatal(err)
	}
	return Decode(data, dir)
}

// seeded is a stream that is always the same.
func seeded() *rand.ChaCha8 { return rand.NewChaCha8([32]byte{7}) }

func build(t *testing.T, vm VM, dir string, keep func(*Release, []byte) error) (*Release, error) {
	t.Helper()
	if keep == nil {
		keep = func(*Release, []byte) error { return nil }
	}
	return Build(t.Context(), vm, Options{Dir: dir, Rand: seeded(), Now: time.Date(2026, 11, 28, 0, 0, 0, 0, time.UTC), Keep: keep})
}

// TestBuildTwice: equal inputs and secrets give equal bytes, in directories of their
// own, and the key is in none of the files.
func TestBuildTwice(t *testing.T) {
	dir, document := inputs(t)
	vm, err := decode(t, dir, document)
	if err != nil {
		t.Fatal(err)
	}
	var keys [2][]byte
	var contents [2]map[string][]byte
	for i, name := range []string{"one", "two"} {
		r, err := build(t, vm, filepath.Join(t.TempDir(), name), func(_ *Release, key []byte) error {
			keys[i] = bytes.Clone(key)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Verify(); err != nil {
			t.Error(err)
		}
		if len(r.Manifest.Shapes) != 4 || !strings.HasSuffix(r.Manifest.CommandLine, " quiet") || r.Manifest.Release == "" {
			t.Errorf("manifest is %+v", r.Manifest)
		}
		contents[i] = map[string][]byte{}
		for _, file := range append(files(), ManifestFile) {
			if contents[i][file], err = os.ReadFile(r.Path(file)); err != nil {
				t.Fatal(err)
			}
			if bytes.Contains(contents[i][file], keys[i]) {
				t.Errorf("%s has the key in it", file)
			}
		}
		names, err := os.ReadDir(r.Dir)
		if err != nil || len(names) != len(files())+1 {
			t.Errorf("directory has %v, error %v, want the manifest and its files", names, err)
		}
	}
	if !bytes.Equal(keys[0], keys[1]) || bytes.Equal(keys[0], make([]byte, 32)) {
		t.Error("the keys are not those of the stream")
	}
	for name, data := range contents[0] {
		if !bytes.Equal(data, contents[1][name]) {
			t.Errorf("%s differs between the builds", name)
		}
	}
}

// A key that is made elsewhere is the disk's, and one of another size is refused.
func TestBuildKey(t *testing.T) {
	dir, document := inputs(t)
	vm, err := decode(t, dir, document)
	if err != nil {
		t.Fatal(err)
	}
	want, given := bytes.Repeat([]byte{9}, 32), bytes.Repeat([]byte{9}, 32)
	var kept []byte
	o := Options{
		Dir: filepath.Join(t.TempDir(), "r"), Rand: seeded(), Now: time.Date(2026, 11, 28, 0, 0, 0, 0, time.UTC),
		Key:  func(context.Context) ([]byte, error) { return given, nil },
		Keep: func(_ *Release, key []byte) error { kept = bytes.Clone(key); return nil },
	}
	r, err := Build(t.Context(), vm, o)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(kept, want) || !bytes.Equal(given, make([]byte, 32)) {
		t.Errorf("kept %x, want %x; the given one is now %x, want zeros", kept, want, given)
	}
	f, err := os.Open(r.Path(DiskFile))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	disk, err := image.OpenDisk(f, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := disk.Filesystem(want, r.Pins); err != nil {
		t.Errorf("opening the disk with the key: %v", err)
	}
	o.Dir = filepath.Join(t.TempDir(), "short")
	o.Key = func(context.Context) ([]byte, error) { return make([]byte, 31), nil }
	if _, err := Build(t.Context(), vm, o); err == nil || !strings.Contains(err.Error(), "it has 31 bytes, want 32") {
		t.Errorf("a short key: got error %v", err)
	}
}

// A build that fails, at whatever step, leaves nothing; one whose directory exists does
// not begin.
func TestBuildLeavesNothing(t *testing.T) {
	dir, document := inputs(t)
	vm, err := decode(t, dir, document)
	if err != nil {
		t.Fatal(err)
	}
	parent := t.TempDir()
	broken := errors.New("the reader has gone")
	if _, err := build(t, vm, filepath.Join(parent, "r"), func(*Release, []byte) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("got error %v", err)
	}
	for name, spoil := range map[string]func(*VM){
		"firmware": func(vm *VM) { vm.Firmware += ".none" },
		"bare":     func(vm *VM) { vm.Accept = []string{AcceptFirmware} },
		"host":     func(vm *VM) { vm.Accept = []string{AcceptKernel} },
		"root":     func(vm *VM) { vm.Root.Path += ".none" },
		"notes":    func(vm *VM) { vm.Root.Strict = true },
		"ca":       func(vm *VM) { vm.SPIRE.TrustRoot = vm.Firmware },
		"ark":      func(vm *VM) { vm.Trust.ARK = vm.Firmware },
	} {
		other := vm
		spoil(&other)
		if _, err := build(t, other, filepath.Join(parent, "r"), nil); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Build(ctx, vm, Options{Dir: filepath.Join(parent, "r"), Rand: seeded(), Now: now, Keep: func(*Release, []byte) error { return nil }}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: got error %v", err)
	}
	if names, err := os.ReadDir(parent); err != nil || len(names) != 0 {
		t.Errorf("left is %v, error %v", names, err)
	}
	if err := os.Mkdir(filepath.Join(parent, "r"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := build(t, vm, filepath.Join(parent, "r"), nil); err == nil || !strings.Contains(err.Error(), "exists") {
		t.Errorf("directory that exists: got error %v", err)
	}
}

// What was changed in a release's directory shows.
func TestVerify(t *testing.T) {
	dir, document := inputs(t)
	vm, err := decode(t, dir, document)
	if err != nil {
		t.Fatal(err)
	}
	r, err := build(t, vm, filepath.Join(t.TempDir(), "r"), nil)
	if err != nil {
		t.Fatal(err)
	}
	check := func() error {
		opened, err := Open(r.Dir)
		if err != nil {
			return err
		}
		return opened.Verify()
	}
	for _, name := range append(files(), ManifestFile) {
		data, err := os.ReadFile(r.Path(name))
		if err != nil {
			t.Fatal(err)
		}
		changed := bytes.Clone(data)
		changed[len(changed)/2] ^= 1
		if err := os.WriteFile(r.Path(name), changed, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := check(); err == nil {
			t.Errorf("%s was changed: got no error", name)
		}
		if err := os.WriteFile(r.Path(name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := check(); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(r.Path("more"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := check(); err == nil || !strings.Contains(err.Error(), "not in the manifest") {
		t.Errorf("a further file: got error %v", err)
	}
}

func TestSealedKey(t *testing.T) {
	identity, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	sealed, own, other := filepath.Join(dir, "key.age"), filepath.Join(dir, "own"), filepath.Join(dir, "other")
	initramfstest.Files{"own": []byte("# created\n" + identity.String() + "\n"), "other": []byte(stranger.String() + "\n")}.WriteTo(t, dir)
	key := bytes.Repeat([]byte{9}, 32)
	if err := SealKey(sealed, key, []string{identity.Recipient().String()}); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(sealed); err != nil || bytes.Contains(data, key) {
		t.Errorf("the sealed key is there in clear, error %v", err)
	}
	if got, err := OpenKey(sealed, own); err != nil || !bytes.Equal(got, key) {
		t.Errorf("got %x, error %v", got, err)
	}
	if _, err := OpenKey(sealed, other); err == nil {
		t.Error("a stranger opened the key")
	}
	if err := SealKey(filepath.Join(dir, "x"), key, []string{"age1nonsense"}); err == nil {
		t.Error("no recipient: got no error")
	}
	if err := SealKey(sealed, key[:31], []string{identity.Recipient().String()}); err == nil {
		t.Error("the sealed key was replaced")
	}
}

// TestVMRefuses: what cannot be meant is refused, and said by its member's name.
func TestVMRefuses(t *testing.T) {
	dir, good := inputs(t)
	set := func(value any, at ...string) func(map[string]any) {
		return func(d map[string]any) {
			for _, name := range at[:len(at)-1] {
				d = d[name].(map[string]any)
			}
			d[at[len(at)-1]] = value
		}
	}
	for _, c := range []struct {
		name, want string
		spoil      func(map[string]any)
	}{
		{"version", "version is 2", set(2, "version")},
		{"unknown member", "volume_groups", set(1, "volume_groups")},
		{"name", "name is", set("Web", "name")},
		{"the owner's name", "owner's side", set("owner", "name")},
		{"no kernel", "kernel.trees", set([]string{}, "kernel", "trees")},
		{"standard input", "root.path", set("-", "root", "path")},
		{"size", "root.size", set("8gib", "root", "size")},
		{"no shape", "shapes", set([]int{}, "shapes", "vcpus")},
		{"vCPUs twice", "shapes.vcpus", set([]int{2, 2}, "shapes", "vcpus")},
		{"CPU type", "shapes.cpu_types", set([]string{"Pentium"}, "shapes", "cpu_types")},
		{"root of trust", "trust.root", set("intel", "trust", "root")},
		{"AMD without products", "trust.ark", set("amd", "trust", "root")},
		{"device of the other platform", "trust.report_device", set("sev-guest", "trust", "report_device")},
		{"product", "trust.products", set([]string{"Genoa"}, "trust", "products")},
		{"loopback", "which is the guest itself", set([]string{"127.0.0.1:8081"}, "spire", "addresses")},
		{"relative socket", "spire.socket is", set("spire.sock", "spire", "socket")},
		{"command line", "command_line", set([]string{"a\nb"}, "command_line")},
		{"hazard", "accept has", set([]string{"everything"}, "accept")},
		{"the key server's ID", "key server's", set("spiffe://example.org/kms", "spiffe_id")},
		{"another domain's ID", "spiffe://elsewhere", set("spiffe://elsewhere/vm", "spiffe_id")},
		{"drivers", "kernel.drivers", set([]string{"moon"}, "kernel", "drivers")},
		{"volume without pins", "volumes[0].pins", set([]any{map[string]any{"mount_point": "/data"}}, "volumes")},
		{"pins of a volume", "pins of volume 0", set([]any{map[string]any{"pins": "", "mount_point": "/data"}}, "volumes")},
		{"writers of a volume", "writers of volume 0", set([]any{map[string]any{"pins": "p", "mount_point": "/data", "writers": "all"}}, "volumes")},
		{"unclean volume", "unclean of volume 0", set([]any{map[string]any{"pins": "p", "mount_point": "/data", "unclean": "yes"}}, "volumes")},
		{"member of a volume", "mountpoint", set([]any{map[string]any{"pins": "p", "mountpoint": "/data"}}, "volumes")},
		{"too many volumes", "volumes has 9", set(slices.Repeat([]any{map[string]any{"pins": "p", "mount_point": "/data"}}, 9), "volumes")},
		{"null", "got null", set(nil, "root")},
	} {
		data, err := json.Marshal(good)
		if err != nil {
			t.Fatal(err)
		}
		var document map[string]any
		if err := json.Unmarshal(data, &document); err != nil {
			t.Fatal(err)
		}
		c.spoil(document)
		if _, err := decode(t, dir, document); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got error %v, want %q in it", c.name, err, c.want)
		}
	}
	vm, err := decode(t, dir, good)
	if err != nil {
		t.Fatal(err)
	}
	got := []string{vm.SPIFFEID, vm.KMS.SPIFFEID, vm.Trust.ReportDevice, vm.Boot.Verification, vm.Firmware}
	want := []string{"spiffe://example.org/vm/web", "spiffe://example.org/kms", bootconfig.ReportVirtioPort, bootconfig.VerificationFull, filepath.Join(dir, "firmware.fd")}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if !slices.Contains(vm.Accept, AcceptKernel) {
		t.Error("accept is lost")
	}
	// The line bars drivers, but for those that the VM names.
	if barred := cmdline.Barred(vm.commandLine()); len(barred) != len(cmdline.Drivers()) {
		t.Errorf("the line bars %v, want every driver of the list", barred)
	}
	vm.Kernel.Drivers = []string{"aws"}
	if line := vm.commandLine(); strings.Contains(line, "nvme") {
		t.Errorf("a VM with the drivers of aws has the line %q", line)
	}
}

// arkDER is a certificate that stands for that of an emulated ARK.
func arkDER(t *testing.T) []byte {
	t.Helper()
	block, _ := pem.Decode([]byte(spiffetest.New(t).PEM()))
	return block.Bytes
}
