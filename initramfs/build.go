// Package initramfs makes the initramfs of a rootvouch guest: PID 1, the programs that
// PID 1 starts, and the kernel modules that the guest needs to open its disk.
//
// An initramfs has two parts (docs/spec/initramfs.md). The base holds modules and programs,
// and nothing that belongs to one guest. The same inputs give the same base on every
// machine. A small archive with boot.json follows the base. So another disk or another key
// server needs only another boot.json, not another base. The launch digest covers both
// parts.
package initramfs

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/rootvouch/rootvouch/boot/bootconfig"
	"github.com/rootvouch/rootvouch/initramfs/cpio"
	"github.com/rootvouch/rootvouch/initramfs/kmod"
	"github.com/rootvouch/rootvouch/pins"
)

// Options says what goes into a base.
type Options struct {
	// Kernel is the tree from which the modules come.
	Kernel *kmod.Tree
	// Modules are the wanted modules; see DefaultModules.
	Modules []kmod.Want
	// GuestBin is a directory with the programs of GuestBinaries.
	GuestBin string
	// Cache is a directory that keeps compressed bases. "" means no cache. A cache
	// makes a build faster, and never changes a base.
	Cache string
}

// alignment of the archives of an initramfs, in bytes (Linux,
// Documentation/driver-api/early-userspace/buffer-format.rst).
const alignment = 4

// windowSize of the base's compression, in bytes. The window is large enough to
// find text of one Go program in another. The kernel accepts up to 128 MiB
// (ZSTD_WINDOWSIZE_MAX in Linux, lib/decompress_unzstd.c) and allocates as much
// while it unpacks.
const windowSize = 64 << 20

// Build makes a base, which lacks boot.json only; Configure adds it.
func Build(o Options) ([]byte, Manifest, error) {
	selection, err := o.Kernel.Select(o.Modules)
	if err != nil {
		return nil, Manifest{}, fmt.Errorf("selecting modules: %w", err)
	}
	if err := checkKernel(o.Kernel.Version(), selection); err != nil {
		return nil, Manifest{}, err
	}
	entries := skeleton()
	var list strings.Builder
	m := Manifest{Version: manifestVersion, KernelVersion: o.Kernel.Version(), BuiltIn: selection.BuiltIn, Missing: selection.Missing}
	for _, module := range selection.Modules {
		name := path.Join(bootconfig.ModulesDir, module.Name+".ko")
		entries = append(entries, file(name, 0o644, module.Data))
		list.WriteString(name + "\n")
		m.Modules = append(m.Modules, module.Name)
	}
	entries = append(entries, file(bootconfig.ModulesPath, 0o644, []byte(list.String())))
	for _, name := range GuestBinaries() {
		program, err := readGuestBinary(o.GuestBin, name)
		if err != nil {
			return nil, Manifest{}, err
		}
		entries = append(entries, file(name, 0o755, program))
	}
	slices.SortFunc(entries, func(a, b cpio.Entry) int { return cmp.Compare(a.Name, b.Name) })
	archive, err := encode(entries)
	if err != nil {
		return nil, Manifest{}, err
	}
	base, err := compressCached(o.Cache, archive)
	if err != nil {
		return nil, Manifest{}, err
	}
	m.SHA256, m.Size, m.UncompressedSize = sha256.Sum256(base), len(base), len(archive)
	for _, e := range entries {
		if e.Mode&cpio.TypeMask == cpio.TypeRegular {
			m.Files = append(m.Files, ManifestFile{Path: "/" + e.Name, Size: len(e.Data), SHA256: pins.Digest(sha256.Sum256(e.Data))})
		}
	}
	return base, m, nil
}

// skeleton holds the entries of every base besides modules and programs.
func skeleton() []cpio.Entry {
	entries := []cpio.Entry{
		// The kernel opens /dev/console for PID 1 before anything is mounted. If it
		// cannot, Go's runtime opens /dev/null instead.
		{Name: "dev/console", Mode: cpio.TypeChar | 0o600, Major: 5, Minor: 1},
		{Name: "dev/null", Mode: cpio.TypeChar | 0o666, Major: 1, Minor: 3},
		// SPIRE's unix attestor looks up the names of user and group 0.
		file("/etc/passwd", 0o644, []byte("root:x:0:0:root:/:/nonexistent\n")),
		file("/etc/group", 0o644, []byte("root:x:0:\n")),
		// Without this file a resolver asks the network for localhost.
		file("/etc/hosts", 0o644, []byte("127.0.0.1 localhost\n::1 localhost\n")),
		{Name: "tmp", Mode: cpio.TypeDirectory | 0o1777},
	}
	for _, dir := range []string{"bin", "dev", "etc", path.Dir(bootconfig.Path), "lib", bootconfig.ModulesDir,
		"newroot", "proc", "run", "sys"} {
		entries = append(entries, cpio.Entry{Name: strings.TrimPrefix(dir, "/"), Mode: cpio.TypeDirectory | 0o755})
	}
	return entries
}

// file returns the entry of a regular file, by its path in the guest.
func file(name string, permissions uint32, data []byte) cpio.Entry {
	return cpio.Entry{Name: strings.TrimPrefix(name, "/"), Mode: cpio.TypeRegular | permissions, Data: data}
}

func encode(entries []cpio.Entry) ([]byte, error) {
	var buf bytes.Buffer
	w := cpio.NewWriter(&buf)
	for _, e := range entries {
		if err := w.Add(e); err != nil {
			return nil, fmt.Errorf("writing archive: %w", err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("writing archive: %w", err)
	}
	return buf.Bytes(), nil
}

// compress makes one zstd frame, padded to the alignment. It uses one goroutine and
// fixed parameters, so the bytes depend only on the archive and the version of the
// encoder.
func compress(archive []byte) ([]byte, error) {
	w, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedBetterCompression),
		zstd.WithWindowSize(windowSize), zstd.WithEncoderCRC(true), zstd.WithSingleSegment(false))
	if err != nil {
		return nil, fmt.Errorf("compressing: %w", err)
	}
	out := w.EncodeAll(archive, nil)
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("compressing: %w", err)
	}
	return pad(out), nil
}

// pad adds zeros up to the offset of the next archive.
func pad(b []byte) []byte { return append(b, make([]byte, -len(b)&(alignment-1))...) }

// configMode is the type and the permissions of boot.json.
const configMode = cpio.TypeRegular | 0o644

// Configure puts boot.json into an initramfs. base is the result of Build, or of an
// earlier Configure; Configure then replaces its boot.json. Configure checks the
// configuration, trust root included, and writes it in canonical form.
func Configure(base []byte, c bootconfig.Config) ([]byte, error) {
	text, err := c.Encode()
	if err != nil {
		return nil, err
	}
	if err := CheckTrustRoot(c); err != nil {
		return nil, err
	}
	p, err := split(base)
	if err != nil {
		return nil, fmt.Errorf("reading base: %w", err)
	}
	_, entries, err := p.readBase()
	if err != nil {
		return nil, fmt.Errorf("reading base: %w", err)
	}
	if err := checkBarred(entries, c.CommandLine); err != nil {
		return nil, err
	}
	if _, err := p.readConfig(); err != nil {
		return nil, fmt.Errorf("reading base: %w", err)
	}
	archive, err := encode([]cpio.Entry{{Name: strings.TrimPrefix(bootconfig.Path, "/"), Mode: configMode, Data: text}})
	if err != nil {
		return nil, err
	}
	return slices.Concat(p.base, archive), nil
}
