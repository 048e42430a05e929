package boot_test

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rootvouch/rootvouch/boot/bootconfig"
	"github.com/rootvouch/rootvouch/boot/cmdline"
	"github.com/rootvouch/rootvouch/image"
	"github.com/rootvouch/rootvouch/initramfs"
	"github.com/rootvouch/rootvouch/initramfs/cpio"
	"github.com/rootvouch/rootvouch/initramfs/kmod"
	"github.com/rootvouch/rootvouch/internal/needs"
	"github.com/rootvouch/rootvouch/kms/keyapi"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/test/childtest"
	"github.com/rootvouch/rootvouch/test/spiffetest"
)

// bound is the longest life of a VM, under TCG on a busy machine.
const bound = 20 * time.Minute

// bench holds the files that the VMs of one test share.
type bench struct {
	dir       string
	qemu      string
	kernel    string
	bin       string   // the guest's programs
	base      []byte   // initramfs without boot.json
	modules   []string // that it has
	hasty     []byte   // an /init with short limits
	guestSize int      // bytes of the stand-in program
	trustRoot string
	sockets   string        // a directory whose path is short
	next      *atomic.Int32 // shared by copies of the bench

	disk    testDisk // the good one
	other   testDisk // same UUID, other header
	empty   testDisk // a root filesystem without an init
	waiting testDisk // its init reads the disk again, after a while
	older   testDisk // the keys and UUID of the good one, another root
}

// testDisk is a disk image with everything that opens it.
type testDisk struct {
	path    string
	pins    pins.Pins
	secrets *image.Secrets
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{
		dir:       t.TempDir(),
		qemu:      needs.Tool(t, "qemu-system-x86_64"),
		kernel:    needs.Part(t, "kernel/boot/vmlinuz-*"),
		trustRoot: spiffetest.New(t).PEM(),
		next:      new(atomic.Int32),
	}
	var err error
	if b.sockets, err = os.MkdirTemp("", "qmp"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(b.sockets) })
	bin := filepath.Join(b.dir, "bin")
	goBuild(t, filepath.Join(bin, "init"), "../cmd/init")
	goBuild(t, filepath.Join(bin, "hasty"), "./testdata/hasty")
	goBuild(t, filepath.Join(bin, "guest"), "./testdata/guest")
	guest := readFile(t, filepath.Join(bin, "guest"))
	b.hasty, b.guestSize = readFile(t, filepath.Join(bin, "hasty")), len(guest)
	for _, name := range initramfs.GuestBinaries() {
		if name != bootconfig.InitPath {
			if err := os.Link(filepath.Join(bin, "guest"), filepath.Join(bin, filepath.Base(name))); err != nil {
				t.Fatal(err)
			}
		}
	}
	b.bin = bin
	b.base, b.modules = b.newBase(t, filepath.Join(needs.Cache(t), "kernel"))
	fresh := func() *image.Secrets {
		secrets, err := image.NewSecrets(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return secrets
	}
	b.disk = b.newDisk(t, "disk", fresh(), map[string][]byte{"sbin/init": guest, "etc/proof": []byte("the right root")})
	otherKeys := fresh()
	otherKeys.DiskUUID = b.disk.secrets.DiskUUID
	b.other = b.newDisk(t, "other", otherKeys, map[string][]byte{"sbin/init": guest})
	b.empty = b.newDisk(t, "empty", fresh(), map[string][]byte{"etc/proof": []byte("x")})
	b.waiting = b.newDisk(t, "waiting", fresh(), map[string][]byte{"sbin/init": guest, "etc/wait-for-corruption": nil})
	b.older = b.newDisk(t, "older", b.disk.secrets, map[string][]byte{"sbin/init": guest, "etc/proof": []byte("the older root")})
	return b
}

// newBase builds an initramfs without boot.json for the kernel in these trees, and
// returns it with the names of its modules.
func (b *bench) newBase(t *testing.T, trees ...string) ([]byte, []string) {
	t.Helper()
	tree, err := kmod.Open(trees, "")
	if err != nil {
		t.Fatal(err)
	}
	base, manifest, err := initramfs.Build(initramfs.Options{Kernel: tree, Modules: initramfs.DefaultModules(), GuestBin: b.bin})
	if err != nil {
		t.Fatal(err)
	}
	return base, manifest.Modules
}

func goBuild(t *testing.T, out, source string) {
	t.Helper()
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s", "-o", out, source)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building %s: %v\n%s", source, err, output)
	}
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// newDisk builds a disk whose root filesystem has the given files.
func (b *bench) newDisk(t *testing.T, name string, secrets *image.Secrets, files map[string][]byte) testDisk {
	t.Helper()
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	headers := []*tar.Header{{Typeflag: tar.TypeDir, Name: "sbin", Mode: 0o755}, {Typeflag: tar.TypeDir, Name: "etc", Mode: 0o755}}
	for path, data := range files {
		headers = append(headers, &tar.Header{Typeflag: tar.TypeReg, Name: path, Mode: 0o755, Size: int64(len(data))})
	}
	for _, h := range headers {
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(files[h.Name]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.buildDisk(t, name, secrets, archive.Bytes())
}

// vm is one VM before it runs. It is a good one until a case changes it.
type vm struct {
	t          *testing.T
	bench      *bench
	config     bootconfig.Config
	raw        []byte // boot.json instead of config; empty for none
	release    keyapi.Released
	secrets    *image.Secrets
	diskPath   string
	copied     bool
	files      map[string][]byte // more files of the initramfs :: path -> content
	kernelLine string            // that QEMU gives instead of the measured one, if not empty
	appended   string            // to the line
	cpu        string            // QEMU's
	devices    []string          // QEMU's arguments for the devices of a hostile host
	disk       func() []string   // QEMU's arguments for the disk, if it is not the usual one
	network    []string          // the same for the network
	volumes    []string          // disks that the VM writes
	volumeKeys [][32]byte        // that were released
	process    atomic.Pointer[os.Process]
	killed     atomic.Bool
	monitor    *monitor          // while it runs
	lines      map[string]func() // :: start of a console line -> what to do then
}

func (b *bench) vm(t *testing.T) *vm {
	v := &vm{t: t, bench: b, cpu: "EPYC-v4", files: map[string][]byte{}, lines: map[string]func(){},
		network: []string{"-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net"}}
	v.use(b.disk)
	return v
}

// use attaches a disk, measures its pins and has its key released.
func (v *vm) use(d testDisk) {
	v.diskPath, v.copied, v.secrets = d.path, false, d.secrets
	v.config = bootconfig.Config{
		Version:      bootconfig.Version,
		TrustDomain:  "example.org",
		SPIRE:        bootconfig.SPIRE{Addresses: []string{"10.0.2.2:8081"}, TrustRoot: v.bench.trustRoot},
		KMS:          bootconfig.KMS{Addresses: []string{"10.0.2.2:8443"}, SPIFFEID: "spiffe://example.org/kms"},
		Disk:         bootconfig.NewDisk(d.pins, true),
		Network:      bootconfig.Network{Mode: bootconfig.NetworkDHCP},
		CommandLine:  cmdline.Default() + " no_timer_check", // a loaded machine fails that check
		ReportDevice: bootconfig.ReportVirtioPort,
		Gate:         bootconfig.GateNone, // this QEMU starts the kernel without a firmware
		Verification: bootconfig.VerificationFull,
		ClockFloor:   time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC),
		Console:      true,
		Devices:      bootconfig.DevicesOwn,
	}
	v.config.Disk.Salt = slices.Clone(v.config.Disk.Salt)
	v.release = keyapi.Released{Key: d.secrets.Key, Header: d.pins.Header, Generation: 7, KMSID: v.config.KMS.SPIFFEID}
	v.set("uuid", d.pins.DiskUUID.String())
}

// set sets the behaviour of a stand-in program.
func (v *vm) set(program, how string) { v.files["etc/case/"+program] = []byte(how) }

func (v *vm) onLine(prefix string, do func()) { v.lines[prefix] = do }

// own gives the VM a copy of its disk, to be changed.
func (v *vm) own() {
	if v.copied {
		return
	}
	data := readFile(v.t, v.diskPath)
	v.diskPath, v.copied = filepath.Join(v.t.TempDir(), "disk.img"), true
	if err := os.WriteFile(v.diskPath, data, 0o600); err != nil {
		v.t.Fatal(err)
	}
}

// flip changes one bit of the disk.
func (v *vm) flip(offset int64) {
	v.own()
	file, err := os.OpenFile(v.diskPath, os.O_RDWR, 0)
	if err != nil {
		v.t.Error(err)
		return
	}
	defer file.Close()
	b := make([]byte, 1)
	if _, err := file.ReadAt(b, offset); err != nil {
		v.t.Error(err)
	}
	b[0] ^= 1
	if _, err := file.WriteAt(b, offset); err != nil {
		v.t.Error(err)
	}
}

func (v *vm) truncate(size int64) {
	v.own()
	if err := os.Truncate(v.diskPath, size); err != nil {
		v.t.Fatal(err)
	}
}

// initramfs appends this VM's own files to the shared base. Later archives win over
// earlier ones.
func (v *vm) initramfs() []byte {
	v.t.Helper()
	out := v.bench.base
	switch {
	case v.raw == nil:
		var err error
		if out, err = initramfs.Configure(out, v.config); err != nil {
			v.t.Fatal(err)
		}
	case len(v.raw) > 0:
		v.files[strings.TrimPrefix(bootconfig.Path, "/")] = v.raw
	}
	reply, err := v.release.Marshal()
	if err != nil {
		v.t.Fatal(err)
	}
	v.files["etc/case/release"] = reply
	out = append(bytes.Clone(out), make([]byte, (4-len(out)%4)%4)...)
	buf := bytes.NewBuffer(out)
	w := cpio.NewWriter(buf)
	add := func(e cpio.Entry) {
		if err := w.Add(e); err != nil {
			v.t.Fatal(err)
		}
	}
	add(cpio.Entry{Name: "etc", Mode: cpio.TypeDirectory | 0o755})
	add(cpio.Entry{Name: "etc/case", Mode: cpio.TypeDirectory | 0o755})
	for _, name := range slices.Sorted(maps.Keys(v.files)) {
		add(cpio.Entry{Name: name, Mode: cpio.TypeRegular | 0o755, Data: v.files[name]})
	}
	if err := w.Close(); err != nil {
		v.t.Fatal(err)
	}
	return buf.Bytes()
}

// machine returns QEMU's arguments for any VM.
func (b *bench) machine(cpu string) []string {
	// One thread for both CPUs: with several, QEMU 10.0 now and then aborts in
	// iotlb_to_section, and cases that share two cores gain nothing.
	return []string{"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-machine", "q35", "-accel", "tcg,thread=single", "-cpu", cpu, "-smp", "2", "-m", "1024"}
}

// kill ends a running VM as a power cut does. Any goroutine may call it.
func (v *vm) kill() {
	if p := v.process.Load(); p != nil {
		v.killed.Store(true)
		p.Kill()
	}
}

// boot runs the VM to its end, which must be its power switch, and returns its
// console.
func (v *vm) boot() string { v.t.Helper(); return v.bootTo("guest-shutdown") }

// bootTo runs the VM to its end and returns its console. The test fails if the VM
// does not end by itself, within the bound and for the given reason. It also fails
// if a key is on the console or in a packet.
func (v *vm) bootTo(reason string) string {
	t := v.t
	t.Helper()
	initrd := filepath.Join(t.TempDir(), "initramfs")
	if err := os.WriteFile(initrd, v.initramfs(), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), bound)
	defer cancel()
	socket := filepath.Join(v.bench.sockets, strconv.Itoa(int(v.bench.next.Add(1))))
	line := v.config.CommandLine
	if v.kernelLine != "" {
		line = v.kernelLine
	}
	args := append(v.bench.machine(v.cpu),
		"-kernel", v.bench.kernel, "-initrd", initrd, "-append", line+v.appended,
		"-serial", "stdio", "-qmp", "unix:"+socket+",server=on,wait=on")
	args = append(append(args, v.network...), v.devices...)
	capture := socket + ".packets"
	if v.network != nil {
		args = append(args, "-object", "filter-dump,id=capture,netdev=net,file="+capture)
	}
	for i, path := range v.volumes {
		args = append(args, "-drive", fmt.Sprintf("file=%s,format=raw,if=none,id=vol%d", path, i), "-device", fmt.Sprintf("virtio-blk-pci,drive=vol%d", i))
	}
	switch {
	case v.disk != nil:
		args = append(args, v.disk()...)
	case v.diskPath != "":
		args = append(args, "-drive", "file="+v.diskPath+",format=raw,if=virtio,readonly=on,cache=writeback")
	}
	cmd := childtest.Tied(exec.CommandContext(ctx, v.bench.qemu, args...))
	var errors bytes.Buffer
	cmd.Stderr = &errors
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	v.process.Store(cmd.Process)
	v.monitor = newMonitor(t, socket)
	var out strings.Builder
	for scanner := bufio.NewScanner(pipe); scanner.Scan(); {
		line := strings.TrimSuffix(scanner.Text(), "\r")
		out.WriteString(line + "\n")
		for prefix, do := range v.lines {
			if strings.HasPrefix(line, prefix) {
				do()
			}
		}
	}
	ended := cmd.Wait()
	v.wantNoSecrets("console", out.String())
	if v.network != nil {
		v.wantNoSecrets("packets", string(readFile(t, capture)))
	}
	if v.killed.Load() {
		return out.String()
	}
	if ended != nil || ctx.Err() != nil {
		t.Errorf("VM did not end by itself within %s: %v\n%s\n%s", bound, ended, errors.String(), out.String())
	}
	if got := v.monitor.reason(); got != reason {
		t.Errorf("VM ended by %q, want %q\n%s", got, reason, out.String())
	}
	return out.String()
}
