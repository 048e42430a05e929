package cli

import (
	"fmt"
	"os"
	"slices"

	"github.com/rootvouch/rootvouch/gate"
	"github.com/rootvouch/rootvouch/initramfs"
	"github.com/rootvouch/rootvouch/internal/command"
	"github.com/rootvouch/rootvouch/internal/filekind"
)

// Role is the purpose for which a VM gets a file.
type Role int

// The roles.
const (
	AsFirmware Role = iota + 1
	AsSVSM
	AsKernel
	AsInitramfs
)

func (r Role) String() string {
	return map[Role]string{AsFirmware: "firmware", AsSVSM: "SVSM", AsKernel: "kernel", AsInitramfs: "initramfs"}[r]
}

// takes lists the kinds of file that fit a role. A file of no known kind fits every role.
func (r Role) takes() []filekind.Kind {
	switch r {
	case AsFirmware:
		return []filekind.Kind{filekind.Firmware}
	case AsSVSM:
		return []filekind.Kind{filekind.Firmware, filekind.ELF}
	case AsKernel:
		return []filekind.Kind{filekind.BzImage, filekind.UKI, filekind.PE}
	case AsInitramfs: // the kinds that Linux unpacks (init/initramfs.c, lib/decompress.c)
		return []filekind.Kind{filekind.Cpio, filekind.Gzip, filekind.Xz, filekind.Zstd, filekind.Bzip2, filekind.LZ4, filekind.LZMA, filekind.LZOP}
	}
	panic("cli: internal error: no role")
}

// CheckKind refuses a file whose recognised kind does not fit its role. The VM would not start
// with it, though its bytes would be measured.
func CheckKind(role Role, path string, kind filekind.Kind) error {
	if kind == filekind.Unknown || slices.Contains(role.takes(), kind) {
		return nil
	}
	err := fmt.Errorf("%s is %v, want a file that can be the %v", path, kind, role)
	if role == AsKernel && slices.Contains(AsInitramfs.takes(), kind) {
		return command.WithHint(err, "an initramfs goes with --initrd; if it is a kernel, "+kind.Advice())
	}
	return command.WithHint(err, kind.Advice())
}

// CheckContent is CheckKind for all of a file's bytes. It also refuses a truncated kernel, and
// an initramfs of ours that has no boot.json yet, with which PID 1 would have nothing to do.
func CheckContent(role Role, path string, data []byte) error {
	if err := CheckKind(role, path, filekind.OfBytes(data)); err != nil {
		return err
	}
	if role == AsKernel {
		if err := gate.CheckWhole(data); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	if role == AsInitramfs && initramfs.IsBase(data) {
		return command.WithHint(fmt.Errorf("%s is the base of an initramfs, without a boot.json", path), "rootvouch initramfs configure puts one in")
	}
	return nil
}

// CheckDisk refuses a disk image that is not raw, because the VM would see the image file's
// bytes as the disk's. It accepts an empty path, which means no disk, and a path that is not a
// regular file.
func CheckDisk(path string) error {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() {
		return nil // QEMU reports the error
	}
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	kind, err := filekind.OfFile(file, info.Size())
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	switch kind {
	case filekind.QCOW2, filekind.VMDK, filekind.VHD, filekind.VHDX, filekind.VDI,
		filekind.Gzip, filekind.Xz, filekind.Zstd, filekind.Bzip2, filekind.LZ4, filekind.LZOP, filekind.Zip, filekind.SevenZip, filekind.Tar:
		return command.WithHint(fmt.Errorf("%s is %v, want a raw disk image", path, kind), kind.Advice())
	}
	return nil
}

// CheckFile is CheckContent for a regular file. It does not read another kind of file, which
// may give its bytes only once.
func CheckFile(role Role, path string) error {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() {
		return nil // the reader of the file reports the error
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("reading %v: %w", role, err)
	}
	return CheckContent(role, path, data)
}
