package release

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/rootvouch/rootvouch/boot/bootconfig"
	"github.com/rootvouch/rootvouch/gate"
	"github.com/rootvouch/rootvouch/image"
	"github.com/rootvouch/rootvouch/image/survey"
	"github.com/rootvouch/rootvouch/initramfs"
	"github.com/rootvouch/rootvouch/initramfs/kmod"
	"github.com/rootvouch/rootvouch/internal/durable"
	"github.com/rootvouch/rootvouch/luks2"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/refval"
	"github.com/rootvouch/rootvouch/snp"
	"github.com/rootvouch/rootvouch/snp/firmware"
	"github.com/rootvouch/rootvouch/snp/launch"
	"github.com/rootvouch/rootvouch/volume"
)

// Options are what a build needs beside vm.json.
type Options struct {
	// Dir is made, and must not exist. It appears when everything is done.
	Dir string
	// Rand is where keys, salts and UUIDs come from: the same stream and the same
	// inputs give the same bytes.
	Rand io.Reader
	// Key returns the disk's key if it is made elsewhere, luks2.PassphraseSize bytes, and
	// is asked when the disk is built. The key is wiped after use. Nil: it comes from Rand.
	Key func(ctx context.Context) ([]byte, error)
	// Now is the clock floor of the VM, unless vm.json has one.
	Now time.Time
	// Keep takes the disk's key, which is in no file of the release, when all files
	// are there under their temporary names. Its error ends the build, which then
	// leaves nothing. The key is wiped afterwards.
	Keep func(r *Release, key []byte) error
	// Say is told what is being done. May be nil.
	Say func(step string)
	// Note is told what is likely to be wrong with the root. May be nil.
	Note func(name, text string)
	// TempDir is where a compressed root is unpacked; "" is the system's.
	TempDir string
	// Cache is a directory that keeps compressed bases of initramfs; "": none.
	Cache string
}

// builder holds what the steps of one build hand on.
type builder struct {
	Options
	vm  VM
	dir string // temporary

	kernel   []byte // behind the gate, or bare
	gate     string // of boot.json and refval.json
	volumes  []bootconfig.Volume
	firmware []byte
	hostCode refval.HostCode
	base     []byte
	pins     pins.Pins
	key      [luks2.PassphraseSize]byte
	out      Release
}

// Build makes a release's directory. It appears whole, or not at all.
func Build(ctx context.Context, vm VM, o Options) (*Release, error) {
	if _, err := os.Lstat(o.Dir); err == nil {
		return nil, fmt.Errorf("%s exists, want the name of a directory that is to be made", o.Dir)
	}
	dir, err := os.MkdirTemp(filepath.Dir(o.Dir), "."+filepath.Base(o.Dir)+".*.part")
	if err != nil {
		return nil, fmt.Errorf("making the release's directory: %w", err)
	}
	defer os.RemoveAll(dir)
	b := &builder{Options: o, vm: vm, dir: dir}
	defer clear(b.key[:])
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"volumes", b.readVolumes},
		{"firmware", b.readFirmware},
		{"kernel and initramfs", b.buildBase},
		{"disk", b.buildDisk},
		{"boot configuration", b.configure},
		{"reference values", b.measure},
		{"manifest", b.list},
	} {
		if o.Say != nil && (step.name != "volumes" || len(vm.Volumes) > 0) {
			o.Say(step.name)
		}
		if err := step.do(ctx); err != nil {
			return nil, fmt.Errorf("building %s: %w", step.name, err)
		}
		if err := ctx.Err(); err != nil {
			return nil, context.Cause(ctx)
		}
	}
	return b.finish()
}

// finish hands the key over and gives the directory its name.
func (b *builder) finish() (*Release, error) {
	if err := os.Chmod(b.dir, 0o755); err != nil {
		return nil, err
	}
	r, err := Open(b.dir)
	if err != nil {
		return nil, err
	}
	if err := b.Keep(r, b.key[:]); err != nil {
		return nil, fmt.Errorf("handing the key over: %w", err)
	}
	if err := durable.NameDir(b.dir, b.Dir); err != nil {
		return nil, fmt.Errorf("naming the release's directory: %w", err)
	}
	r.Dir = b.Dir
	return r, nil
}

func (b *builder) path(name string) string { return filepath.Join(b.dir, name) }

func (b *builder) write(name string, data []byte) error {
	return durable.Create(b.path(name), data, 0o644)
}

// readVolumes reads the pins of volumes, before anything that takes long.
func (b *builder) readVolumes(context.Context) error {
	for _, v := range b.vm.Volumes {
		data, err := readSmall(v.Pins)
		if err != nil {
			return err
		}
		p, err := volume.DecodePins(data)
		if err != nil {
			return fmt.Errorf("%s: %w", v.Pins, err)
		}
		if err := v.Filesystem.CheckSize(p.DataSize()); err != nil {
			return fmt.Errorf("%s: %w", v.Pins, err)
		}
		b.volumes = append(b.volumes, bootconfig.Volume{UUID: p.DiskUUID, MountPoint: v.MountPoint, Filesystem: v.Filesystem})
		b.out.Manifest.Volumes = append(b.out.Manifest.Volumes, Mounted{p.Header, p.Size, v.Mount})
	}
	return bootconfig.CheckVolumes(b.volumes)
}

// filesystems are those of the volumes, each once.
func (b *builder) filesystems() (all []string) {
	for _, v := range b.volumes {
		if f := string(v.Filesystem); !slices.Contains(all, f) {
			all = append(all, f)
		}
	}
	return all
}

func (b *builder) readFirmware(context.Context) (err error) {
	if b.firmware, err = os.ReadFile(b.vm.Firmware); err != nil {
		return err
	}
	b.hostCode = refval.HostCodeNone
	if err := firmware.Check(b.firmware); err != nil {
		if !slices.Contains(b.vm.Accept, AcceptFirmware) {
			return err
		}
		b.hostCode = refval.HostCodeAccepted
	}
	return b.write(FirmwareFile, b.firmware)
}

func (b *builder) buildBase(context.Context) error {
	tree, err := kmod.Open(b.vm.Kernel.Trees, b.vm.Kernel.Version)
	if err != nil {
		return err
	}
	kernel, err := tree.Kernel()
	if err != nil {
		return err
	}
	b.gate = gate.ID().String()
	if slices.Contains(b.vm.Accept, AcceptKernel) {
		b.kernel, b.gate = kernel, bootconfig.GateNone
	} else if b.kernel, err = gate.Build(kernel); err != nil {
		return err
	}
	if err := b.write(KernelFile, b.kernel); err != nil {
		return err
	}
	wants := initramfs.DefaultModules()
	drivers := slices.Clone(b.vm.Kernel.Drivers)
	for _, f := range b.filesystems() {
		if f != string(bootconfig.Ext4) && !slices.Contains(drivers, f) { // ext4 is in every kernel
			drivers = append(drivers, f)
		}
	}
	for _, target := range drivers {
		more, err := initramfs.Drivers(target)
		if err != nil {
			return err
		}
		wants = append(wants, more...)
	}
	for _, name := range b.vm.Kernel.Modules {
		wants = append(wants, kmod.Want{Names: []string{name}})
	}
	base, manifest, err := initramfs.Build(initramfs.Options{Kernel: tree, Modules: wants, GuestBin: b.vm.GuestBin, Cache: b.Cache})
	if err != nil {
		return err
	}
	b.base = base
	fetchkey, err := sumFile(filepath.Join(b.vm.GuestBin, filepath.Base(bootconfig.FetchkeyPath)))
	b.out.Manifest.FetchkeySHA256 = fetchkey.SHA256
	return errors.Join(err, b.write(BaseFile, manifest.Encode()))
}

func (b *builder) buildDisk(ctx context.Context) error {
	secrets, err := image.NewSecrets(b.Rand)
	if err != nil {
		return err
	}
	defer secrets.Wipe()
	if err := b.takeKey(ctx, secrets); err != nil {
		return err
	}
	root := b.vm.Root
	size, err := parseSize(root.Size)
	if err != nil {
		return err
	}
	source, done, err := image.Open(ctx, image.Input{
		Path: root.Path, Image: root.Image, Exclude: root.Exclude, DropXattrs: root.DropXattrs, DropPAX: root.DropPAX, TempDir: b.TempDir, Filesystems: b.filesystems(),
		Seen: func(s image.Summary) error { return b.notes(s.Notes) },
	})
	if err != nil {
		return fmt.Errorf("reading the root: %w", err)
	}
	defer done()
	before := runtime.GOMAXPROCS(0)
	defer runtime.GOMAXPROCS(before)
	runtime.GOMAXPROCS(before + image.Waiting) // see image.Options.Workers
	b.pins, err = image.BuildFiles(ctx, image.Files{Disk: b.path(DiskFile), Pins: b.path(PinsFile), KeyTo: writer(func(key []byte) {
		copy(b.key[:], key)
	})}, source, secrets, image.Options{Size: size, Workers: before + image.Waiting})
	return err
}

// takeKey has the disk open with a key that is made elsewhere, if it is.
func (b *builder) takeKey(ctx context.Context, secrets *image.Secrets) error {
	if b.Key == nil {
		return nil
	}
	key, err := b.Key(ctx)
	if err != nil {
		return fmt.Errorf("asking for the disk's key: %w", err)
	}
	defer clear(key)
	if len(key) != len(secrets.Key) {
		return fmt.Errorf("asking for the disk's key: it has %d bytes, want %d", len(key), len(secrets.Key))
	}
	copy(secrets.Key[:], key)
	return nil
}

// writer takes the key in memory.
type writer func([]byte)

func (w writer) Write(data []byte) (int, error) {
	w(data)
	return len(data), nil
}

// notes tells what is likely to be wrong with the root, and refuses it where vm.json
// says so.
func (b *builder) notes(all []survey.Note) error {
	var refused []string
	for _, note := range all {
		if b.Note != nil {
			b.Note(note.Name, note.Text)
		}
		if b.vm.Root.Strict && !slices.Contains(b.vm.Root.AcceptNotes, note.Name) && !slices.Contains(refused, note.Name) {
			refused = append(refused, note.Name)
		}
	}
	if len(refused) > 0 {
		return fmt.Errorf("root.strict refuses a root with notes: %s", strings.Join(refused, ", "))
	}
	return nil
}

func (b *builder) configure(context.Context) error {
	vm := b.vm
	trustRoot, err := os.ReadFile(vm.SPIRE.TrustRoot)
	if err != nil {
		return err
	}
	c := bootconfig.Config{
		Version: bootconfig.Version, TrustDomain: vm.TrustDomain,
		SPIRE:   bootconfig.SPIRE{Addresses: vm.SPIRE.Addresses},
		KMS:     bootconfig.KMS{Addresses: vm.KMS.Addresses, SPIFFEID: vm.KMS.SPIFFEID},
		Disk:    bootconfig.NewDisk(b.pins, vm.Trust.HeaderPin == "measured"),
		Network: vm.Boot.Network, CommandLine: vm.commandLine(), ReportDevice: vm.Trust.ReportDevice, Gate: b.gate,
		Verification: vm.Boot.Verification, ClockFloor: vm.Boot.ClockFloor.UTC(), Console: true, ConsoleLogin: vm.Boot.ConsoleLogin, Devices: vm.Boot.Devices,
		Volumes: b.volumes,
	}
	if vm.Boot.ClockFloor.IsZero() {
		c.ClockFloor = b.Now.UTC().Truncate(time.Second)
	}
	if c.SPIRE.TrustRoot, err = initramfs.ReadTrustRoot(trustRoot); err != nil {
		return fmt.Errorf("%s: %w", vm.SPIRE.TrustRoot, err)
	}
	text, err := c.Encode()
	if err != nil {
		return err
	}
	if err := initramfs.CheckTrustRoot(c); err != nil {
		return err
	}
	out, err := initramfs.Configure(b.base, c)
	if err != nil {
		return err
	}
	b.out.Manifest.CommandLine = c.CommandLine
	return errors.Join(b.write(BootFile, text), b.write(InitramfsFile, out))
}

// measure computes the launch digest of each shape, and makes the reference values.
func (b *builder) measure(context.Context) error {
	initrd, err := os.ReadFile(b.path(InitramfsFile))
	if err != nil {
		return err
	}
	line := b.out.Manifest.CommandLine
	hashes := launch.Hashes{Kernel: sha256.Sum256(b.kernel), Initrd: sha256.Sum256(initrd)}
	if hashes.CommandLine, err = launch.HashCommandLine(line); err != nil {
		return err
	}
	parsed, err := launch.ParseFirmware(b.firmware)
	if err != nil {
		return err
	}
	var cpus []launch.CPU
	for _, name := range b.vm.Shapes.CPUTypes {
		cpu, err := launch.LookupCPU(name)
		if err != nil {
			return err
		}
		cpus = append(cpus, cpu)
	}
	in := launch.Inputs{Mode: launch.SNP, Firmware: parsed, Hashes: &hashes}
	in.VMM, in.VMSA, in.Features, in.CPU = launch.QEMU, launch.CurrentVMSA, 1, cpus[0]
	entries, err := launch.Matrix(in, b.vm.Shapes.VCPUs, cpus)
	if err != nil {
		return err
	}
	var all []refval.Measurement
	for _, e := range entries {
		digest := snp.Measurement(e.Digest.Bytes())
		all = append(all, refval.Measurement{
			Digest: digest, HostCode: b.hostCode, Gate: refval.Gate(b.gate), Kernel: refval.KernelMeasured, VCPUs: e.VCPUs, CPUType: e.CPU.Name,
			Provenance: refval.Provenance{FirmwareSHA256: sha256.Sum256(b.firmware), KernelSHA256: hashes.Kernel, InitramfsSHA256: hashes.Initrd, CommandLine: line},
		})
		b.out.Manifest.Shapes = append(b.out.Manifest.Shapes, Shape{e.VCPUs, e.CPU.Name, digest})
	}
	root, err := b.vm.Trust.root()
	if err != nil {
		return err
	}
	products, err := b.vm.Trust.products()
	if err != nil {
		return err
	}
	values := refval.New(root, all, products...)
	values.Pins = refval.Exactly(b.pins)
	text, err := values.Encode()
	if err != nil {
		return err
	}
	return b.write(RefvalFile, text)
}

func (t Trust) root() (refval.RootOfTrust, error) {
	if t.Root == "amd" {
		return refval.AMD(), nil
	}
	data, err := os.ReadFile(t.ARK)
	if err != nil {
		return refval.RootOfTrust{}, err
	}
	if block, _ := pem.Decode(data); block != nil {
		data = block.Bytes
	}
	if _, err := x509.ParseCertificate(data); err != nil {
		return refval.RootOfTrust{}, fmt.Errorf("%s: parsing the ARK's certificate: %w", t.ARK, err)
	}
	return refval.EmulatedARK(sha256.Sum256(data)), nil
}

// list writes vm.json as it was given, and the manifest.
func (b *builder) list(context.Context) error {
	err := b.write(VMFile, b.vm.text)
	if err != nil {
		return err
	}
	m := &b.out.Manifest
	m.Version, m.Name, m.TrustDomain, m.SPIFFEID, m.Emulated, m.DiskUUID = version, b.vm.Name, b.vm.TrustDomain, b.vm.SPIFFEID, b.vm.Emulated(), b.pins.DiskUUID
	m.Files = map[string]File{}
	for _, name := range files() {
		if m.Files[name], err = sumFile(b.path(name)); err != nil {
			return err
		}
	}
	m.seal()
	return b.write(ManifestFile, m.encode())
}
