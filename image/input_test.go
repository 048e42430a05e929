package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/rootvouch/rootvouch/image/intake"
	"github.com/rootvouch/rootvouch/internal/needs"
)

func TestOpenCompressed(t *testing.T) {
	data := smallTar(t)
	want := tarSource(t, data)
	var gz, zs bytes.Buffer
	g := gzip.NewWriter(&gz)
	z, err := zstd.NewWriter(&zs)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range []io.WriteCloser{g, z} {
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	kinds := map[string][]byte{"tar": data, "tar.gz": gz.Bytes(), "tar.zst": zs.Bytes()}
	for _, tool := range []string{"xz", "bzip2"} {
		pack := exec.Command(needs.Tool(t, tool), "-c")
		pack.Stdin = bytes.NewReader(data)
		if kinds["tar."+tool], err = pack.Output(); err != nil {
			t.Fatal(err)
		}
	}
	for name, packed := range kinds {
		for _, in := range []Input{{Path: write(t, name, packed)}, {Path: "-", Stdin: bytes.NewReader(packed)}} {
			source, closeSource, err := Open(context.Background(), in)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			if source.Size() != want.Size() {
				t.Errorf("%s: %d bytes, want %d", name, source.Size(), want.Size())
			}
			closeSource()
		}
		if _, _, err := Open(context.Background(), Input{Path: write(t, name, packed[:len(packed)*2/3])}); err == nil {
			t.Errorf("%s cut off: got no error", name)
		}
	}
	for _, junk := range [][]byte{nil, []byte("hello"), make([]byte, 10000)} {
		if _, _, err := Open(context.Background(), Input{Path: write(t, "junk", junk)}); err == nil {
			t.Errorf("%d bytes of junk: got no error", len(junk))
		}
	}
}

// TestOpenStalled: nobody has to write or hang up for a build to end.
func TestOpenStalled(t *testing.T) {
	for name, before := range map[string]int{"at once": 0, "within the tar": 3000} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close() // the reader stays open: its Read goes on
		if _, err := w.Write(smallTar(t)[:before]); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		time.AfterFunc(50*time.Millisecond, cancel)
		if _, _, err := Open(ctx, Input{Path: "-", Stdin: r}); !errors.Is(err, context.Canceled) {
			t.Errorf("stalled %s: got error %v, want %v", name, err, context.Canceled)
		}
		cancel()
	}
}

// TestOpenOldTar: before ustar a tar had no magic.
func TestOpenOldTar(t *testing.T) {
	old := tarOf(t, "dir/", "dir/file", "other")
	for at := 0; old[at] != 0; {
		header := old[at:][:intake.TarBlock]
		clear(header[257:]) // magic and all that came with it
		size, err := strconv.ParseInt(strings.Trim(string(header[124:136]), " \x00"), 8, 64)
		if err != nil {
			t.Fatal(err)
		}
		copy(header[148:156], "        ")
		sum := 0
		for _, c := range header {
			sum += int(c)
		}
		copy(header[148:], fmt.Sprintf("%06o\x00 ", sum))
		at += intake.TarBlock + (int(size)+intake.TarBlock-1)/intake.TarBlock*intake.TarBlock
	}
	for _, in := range []Input{{Path: write(t, "old.tar", old)}, {Path: "-", Stdin: bytes.NewReader(old)}} {
		_, closeSource, err := Open(context.Background(), in)
		if err != nil {
			t.Fatal(err)
		}
		closeSource()
	}
	old[0] ^= 1
	if _, _, err := Open(context.Background(), Input{Path: write(t, "bad.tar", old)}); err == nil || !strings.Contains(err.Error(), "not a readable root") {
		t.Errorf("wrong checksum: got error %v", err)
	}
}

// TestOpenZstdFrames: pzstd begins with a frame to be skipped; a window above
// what memory there is for it is refused in words.
func TestOpenZstdFrames(t *testing.T) {
	packed := func(options ...zstd.EOption) []byte {
		var out bytes.Buffer
		z, err := zstd.NewWriter(&out, options...)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := z.Write(smallTar(t)); err != nil {
			t.Fatal(err)
		}
		if err := z.Flush(); err != nil { // so that the frame does not know its size
			t.Fatal(err)
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}
	skipped := append([]byte("\x50\x2a\x4d\x18\x04\x00\x00\x00abcd"), packed()...)
	_, closeSource, err := Open(context.Background(), Input{Path: write(t, "p.tar.zst", skipped)})
	if err != nil {
		t.Fatal(err)
	}
	closeSource()
	wide := packed(zstd.WithWindowSize(2 * intake.MaxWindow))
	if _, _, err := Open(context.Background(), Input{Path: write(t, "w.tar.zst", wide)}); err == nil || !strings.Contains(err.Error(), "67108864 bytes") {
		t.Errorf("wide window: got error %v", err)
	}
}

// TestEmptyRoot: a directory that was not mounted, say, is no root.
func TestEmptyRoot(t *testing.T) {
	for name, in := range map[string]Input{
		"directory": {Path: t.TempDir()},
		"excluded":  {Path: write(t, "tar", smallTar(t)), Exclude: []string{"d?"}},
	} {
		if _, _, err := Open(context.Background(), in); err == nil || !strings.Contains(err.Error(), "no files") {
			t.Errorf("%s: got error %v", name, err)
		}
	}
}

// TestFinishedRefusals changes one field of real superblocks' layout.
func TestFinishedRefusals(t *testing.T) {
	ext4 := func(change func(sb []byte)) []byte {
		image := make([]byte, 64*4096)
		sb := image[ext4At:]
		copy(sb[0x38:], ext4Magic)
		sb[0x04], sb[0x18], sb[0x3a] = 64, 2, 1
		change(sb)
		return image
	}
	squash := func(change func(sb []byte)) []byte {
		image := make([]byte, 8192)
		copy(image, squashfsMagic)
		image[28], image[40] = 4, 200
		change(image)
		return image
	}
	erofs := func(change func(sb []byte)) []byte {
		image := make([]byte, 4*4096)
		sb := image[erofsAt:]
		copy(sb, erofsMagic)
		sb[0x0c], sb[0x24] = 12, 4
		change(sb)
		return image
	}
	for _, c := range []struct {
		name  string
		image []byte
		want  string // "" means taken
	}{
		{"ext4", ext4(func([]byte) {}), ""},
		{"ext4, 1024-byte blocks", ext4(func(sb []byte) { sb[0x18] = 0 }), "blocks of 1024 bytes, want 4096"},
		{"ext4, journal", ext4(func(sb []byte) { sb[0x60] = 4 }), "journal needs recovery"},
		{"ext4, journal device", ext4(func(sb []byte) { sb[0x60] = 8 }), "it is a journal"},
		{"ext4, not clean", ext4(func(sb []byte) { sb[0x3a] = 0 }), "s_state is 0x0"},
		{"ext4, errors", ext4(func(sb []byte) { sb[0x3a] = 3 }), "s_state is 0x3"},
		{"ext4, cut off", ext4(func(sb []byte) { sb[0x04] = 65 }), "the superblock says 266240 bytes, the file has 262144"},
		{"ext4, 64 bit", ext4(func(sb []byte) { sb[0x60] = 0x80; sb[0x150] = 1 }), "the superblock says 17592186306560 bytes"},
		{"squashfs", squash(func([]byte) {}), ""},
		{"squashfs 3", squash(func(sb []byte) { sb[28] = 3 }), "version 3.0, want 4.0"},
		{"squashfs, cut off", squash(func(sb []byte) { sb[42] = 1 }), "the superblock says"},
		{"EROFS", erofs(func([]byte) {}), ""},
		{"EROFS, 512-byte blocks", erofs(func(sb []byte) { sb[0x0c] = 9 }), "blocks of 2^9 bytes"},
		{"EROFS, devices", erofs(func(sb []byte) { sb[0x50] = 8 }), "on other devices"},
		{"EROFS, cut off", erofs(func(sb []byte) { sb[0x24] = 5 }), "the superblock says 20480 bytes"},
		{"EROFS, empty", erofs(func(sb []byte) { sb[0x24] = 0 }), "the superblock says 0 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, closeSource, err := Open(context.Background(), Input{Path: write(t, "image", c.image)})
			if err == nil {
				closeSource()
			}
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v, want one with %q", err, c.want)
			}
		})
	}
	if _, _, err := Open(context.Background(), Input{Path: write(t, "image", ext4(func([]byte) {})), Exclude: []string{"*"}}); err == nil {
		t.Error("excluding from a finished filesystem: got no error")
	}
}

// TestInteropExt4: a real ext4 goes in and comes out as it is.
func TestInteropExt4(t *testing.T) {
	mkfs := needs.Tool(t, "mkfs.ext4")
	path := write(t, "ext4", nil)
	if out, err := exec.Command(mkfs, "-q", "-b", "4096", path, "16M").CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v: %s", err, out)
	}
	source, closeSource, err := Open(context.Background(), Input{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	defer closeSource()
	b := mustBuild(t, source, Options{})
	if got := accepted(t, b); !bytes.Equal(got, read(t, path)) {
		t.Error("the filesystem changed on its way")
	}
}

// TestOpenNames: what is no root is refused by its name, with what to do, from a
// file and from standard input.
func TestOpenNames(t *testing.T) {
	with := func(size, offset int, data string) []byte {
		file := make([]byte, size)
		copy(file[offset:], data)
		return file
	}
	var gz bytes.Buffer
	z := gzip.NewWriter(&gz)
	if _, err := z.Write(with(4096, 0, "070701")); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		file []byte
		want string
	}{
		{with(4096, 0, "QFI\xfb"), "is a qcow2 disk image, want .*qemu-img convert"},
		{with(4096, 0, "KDMV"), "is a VMDK disk image, want .*qemu-img convert"},
		{with(4096, 0, "conectix"), "is a VHD disk image, want .*qemu-img convert"},
		{with(4096, 0, "vhdxfile"), "is a VHDX disk image, want .*qemu-img convert"},
		{with(4096, 0x40, "\x7f\x10\xda\xbe"), "is a VDI disk image, want .*qemu-img convert"},
		{with(0x9000, 0x8001, "CD001"), "is an ISO 9660 image, want .*mount it read-only"},
		{with(4096, 512, "EFI PART"), "is a disk with a partition table .*losetup -P"},
		{with(4096, 510, "\x55\xaa"), "is a disk with a boot sector .*losetup -P"},
		{with(4096, 0, "LUKS\xba\xbe"), "is a LUKS container, want .*cryptsetup open"},
		{with(4096, 0, "XFSB"), "is an XFS filesystem, want .*mount it"},
		{with(0x11000, 0x10040, "_BHRfS_M"), "is a btrfs filesystem, want .*mount it"},
		{with(4096, 0, "PK\x03\x04"), "is a zip archive, want .*unzip"},
		{with(4096, 0, "070701"), "is a cpio archive, want .*cpio -id"},
		{with(4096, 0, "\x04\x22\x4d\x18"), "is lz4 data, want .*lz4 -d"},
		{with(4096, 0, "!<arch>\ndebian-binary"), "is a Debian package, want .*dpkg-deb -x"},
		{with(4096, 0, "\xed\xab\xee\xdb"), "is an RPM package, want .*rpm2cpio"},
		{with(4096, 0, "\x7fELF"), "is an ELF file, want .*a root is a file tree"},
		{with(4096, 0x202, "HdrS"), "is a Linux kernel, want .*a root is a file tree"},
		{gz.Bytes(), "gzip data of something else than a tar: the unpacked file is a cpio archive"},
	} {
		for _, in := range []Input{{Path: write(t, "root", c.file)}, {Path: "-", Stdin: bytes.NewReader(c.file)}} {
			if _, _, err := Open(context.Background(), in); err == nil || !regexp.MustCompile(c.want).MatchString(err.Error()) {
				t.Errorf("%s: got error %v, want one with %q", in.Path, err, c.want)
			}
		}
	}
}

// TestOpenContainers: formats that have a root in them are none themselves, in a
// tar, on standard input and unpacked.
func TestOpenContainers(t *testing.T) {
	docker := files{"manifest.json": `[{"Config":"c.json","RepoTags":["a:b"],"Layers":["l.tar"]}]`, "c.json": "{}", "l.tar": "x", "repositories": "{}"}
	for name, c := range map[string]struct {
		files files
		want  string
	}{
		"docker-archive":         {docker, "docker-archive.*skopeo copy docker-archive:FILE"},
		"docker-archive, old":    {files{"repositories": "{}", "0123/layer.tar": "x", "0123/VERSION": "1.0"}, "docker-archive"},
		"skopeo dir":             {files{"version": "Directory Transport Version: 1.1\n", "manifest.json": `{"schemaVersion":2}`, "0123": "x"}, "skopeo copy dir:DIR"},
		"runtime bundle":         {files{"config.json": `{"ociVersion":"1.0.0"}`, "rootfs/etc/passwd": ""}, "name its directory rootfs"},
		"LXD image":              {files{"metadata.yaml": "", "rootfs/etc/passwd": ""}, "LXD or Incus"},
		"OVA":                    {files{"vm.ovf": "<x/>", "vm-disk1.vmdk": "KDMV"}, "OVA"},
		"Google's disk":          {files{"disk.raw": "x"}, "take the partition out of disk.raw"},
		"Vagrant box":            {files{"metadata.json": "{}", "box.img": "x"}, "Vagrant"},
		"Arch package":           {files{".PKGINFO": "", ".MTREE": ""}, "package manager"},
		"Debian package":         {files{"debian-binary": "2.0\n", "data.tar": "x"}, "unpack data.tar"},
		"OSTree repository":      {files{"config": "[core]\n", "objects/x": "", "refs/x": ""}, "ostree checkout"},
		"a root with a manifest": {files{"manifest.json": docker["manifest.json"], "etc/passwd": ""}, ""},
		"other JSON":             {files{"manifest.json": `{"name":"app"}`, "app": ""}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			data, dir := c.files.tar(t), t.TempDir()
			for name, text := range c.files {
				path := filepath.Join(dir, name)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			for how, in := range map[string]Input{"tar": {Path: write(t, "tar", data)}, "stdin": {Path: "-", Stdin: bytes.NewReader(data)}, "directory": {Path: dir}} {
				_, closeSource, err := Open(context.Background(), in)
				if err == nil {
					closeSource()
				}
				if c.want == "" && err != nil || c.want != "" && (err == nil || !regexp.MustCompile(c.want).MatchString(err.Error())) {
					t.Errorf("%s: got error %v, want one with %q", how, err, c.want)
				}
			}
		})
	}
}

// files are those of a tar :: name -> contents.
type files map[string]string

func (f files) tar(t *testing.T) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, name := range slices.Sorted(maps.Keys(f)) {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(f[name])), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, f[name]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// TestXZDictionary: a dictionary above what memory there is for it is refused.
func TestXZDictionary(t *testing.T) {
	pack := exec.Command(needs.Tool(t, "xz"), "-c", "--lzma2=preset=0,dict=128MiB")
	pack.Stdin = bytes.NewReader(smallTar(t))
	wide, err := pack.Output()
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := Open(context.Background(), Input{Path: write(t, "w.tar.xz", wide)}); err == nil || !strings.Contains(err.Error(), "134217728 bytes, want at most 67108864") {
		t.Errorf("wide dictionary: got error %v", err)
	}
}

// TestSeenRefuses: who is told about a tree can end the build.
func TestSeenRefuses(t *testing.T) {
	no := errors.New("no")
	var seen Summary
	in := Input{Path: write(t, "tar", smallTar(t)), Seen: func(s Summary) error { seen = s; return no }}
	if _, _, err := Open(context.Background(), in); !errors.Is(err, no) {
		t.Errorf("got error %v, want %v", err, no)
	}
	if len(seen.Notes) == 0 {
		t.Error("got no note about a root without an init")
	}
}
