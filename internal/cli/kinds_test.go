package cli

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rootvouch/rootvouch/initramfs"
	"github.com/rootvouch/rootvouch/initramfs/kmod"
	"github.com/rootvouch/rootvouch/test/initramfstest"
)

// bzImage is as much of a kernel as is looked at.
func bzImage() []byte { return append(make([]byte, 0x202), "HdrS"...) }

func TestCheckContent(t *testing.T) {
	firmware := append(make([]byte, 0x28), "_FVH"...)
	for _, c := range []struct {
		name string
		role Role
		data []byte
		want string // "" is accepted
		hint string
	}{
		{"firmware", AsFirmware, firmware, "", ""},
		{"kernel", AsKernel, bzImage(), "", ""},
		{"initramfs", AsInitramfs, []byte("070701"), "", ""},
		{"initramfs, gzip", AsInitramfs, []byte("\x1f\x8b\x08"), "", ""},
		{"of no known kind", AsKernel, []byte("?"), "", ""},
		{"qcow2 firmware", AsFirmware, []byte("QFI\xfb\x00\x00\x00\x03"), "is a qcow2 disk image, want a file that can be the firmware", "qemu-img convert -O raw"},
		{"gzip firmware", AsFirmware, []byte("\x1f\x8b\x08"), "gzip data", "gzip -d"},
		{"kernel as firmware", AsFirmware, bzImage(), "a Linux kernel", "name it as the kernel"},
		{"firmware as kernel", AsKernel, firmware, "a UEFI firmware", "name it as the firmware"},
		{"initramfs as kernel", AsKernel, []byte("\x28\xb5\x2f\xfd"), "zstd data", "--initrd"},
		{"cpio as kernel", AsKernel, []byte("070701"), "a cpio archive", "--initrd"},
		{"kernel as initramfs", AsInitramfs, bzImage(), "a Linux kernel", "name it as the kernel"},
		{"zip as kernel", AsKernel, []byte("PK\x03\x04"), "a zip archive", "unzip"},
		{"package as kernel", AsKernel, []byte("!<arch>\ndebian-binary"), "a Debian package", "dpkg-deb -x"},
		{"vmlinux", AsKernel, []byte("\x7fELF"), "an ELF file", "vmlinuz"},
		{"arm64 kernel", AsKernel, append(make([]byte, 0x38), "ARM\x64"...), "arm64", "x86-64"},
		{"ISO as initramfs", AsInitramfs, append(make([]byte, 0x8001), "CD001"...), "ISO 9660", "mount"},
		{"LUKS as initramfs", AsInitramfs, []byte("LUKS\xba\xbe"), "a LUKS container", "cryptsetup"},
	} {
		path := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(path, c.data, 0o600); err != nil {
			t.Fatal(err)
		}
		for from, err := range map[string]error{"bytes": CheckContent(c.role, path, c.data), "file": CheckFile(c.role, path)} {
			hinted, _ := errors.AsType[interface {
				error
				Hint() string
			}](err)
			switch {
			case c.want == "" && err != nil:
				t.Errorf("%s by %s: got error %v", c.name, from, err)
			case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || hinted == nil || !strings.Contains(hinted.Hint(), c.hint)):
				t.Errorf("%s by %s: got error %v, hint %v, want %q and %q", c.name, from, err, hinted, c.want, c.hint)
			}
		}
	}
}

// TestCheckBase: a base without boot.json is refused, one with it is not.
func TestCheckBase(t *testing.T) {
	var names []string
	for _, p := range initramfs.GuestBinaries() {
		names = append(names, filepath.Base(p))
	}
	tree, err := kmod.Open([]string{initramfstest.Kernel(t)}, "")
	if err != nil {
		t.Fatal(err)
	}
	base, _, err := initramfs.Build(initramfs.Options{Kernel: tree, Modules: initramfs.DefaultModules(), GuestBin: initramfstest.GuestBin(t, names...)})
	if err != nil {
		t.Fatal(err)
	}
	cut := append(bzImage(), make([]byte, 0x100)...)
	cut[0x1f4] = 0xff // 255 * 16 bytes after the setup sectors
	if err := CheckContent(AsKernel, "vmlinuz", cut); err == nil || !strings.Contains(err.Error(), "vmlinuz: the kernel is cut off") {
		t.Errorf("a kernel that was cut off: got error %v", err)
	}
	if err := CheckContent(AsInitramfs, "base.img", base); err == nil || !strings.Contains(err.Error(), "without a boot.json") {
		t.Errorf("a base: got error %v", err)
	}
	if err := CheckContent(AsInitramfs, "other.img", base[:len(base)-4]); err != nil {
		t.Errorf("zstd data of others: got error %v", err)
	}
	if initramfs.IsBase(append(base, 0, 0, 0, 0)) {
		t.Error("what has more behind its base is taken for a base")
	}
}
