// Package filekind tells the kind of a file from its content.
//
// Users give commands the files that they have: a firmware as qcow2, a compressed kernel, a
// disk in place of an initramfs. A command that knows its accepted kinds can refuse the others
// by name, and say what to do.
package filekind

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
)

// Kind is the kind of a file. The zero value, Unknown, is a file without any of the marks
// below.
type Kind int

// The kinds.
const (
	Unknown Kind = iota

	Gzip
	Xz
	Zstd
	Bzip2
	LZ4
	LZMA
	LZOP

	Tar
	Cpio
	Zip
	SevenZip
	Deb
	RPM

	QCOW2
	VMDK
	VHD
	VHDX
	VDI
	ISO
	GPT
	MBR
	LUKS

	EROFS
	Squashfs
	Ext
	XFS
	Btrfs
	FAT

	BzImage // a Linux kernel for x86
	ARMImage
	UKI // an EFI program with a kernel inside
	PE  // any other EFI program
	ELF
	Firmware // a UEFI firmware volume

	// Our documents, and their parts.
	BootConfig
	Pins
	ReferenceValues
	Measurements
	Evidence
	JSON // any other JSON
	PEM
	DER
	Report // an attestation report of the AMD-SP
)

// HeadSize is how many bytes at the beginning of a file Of examines.
const HeadSize = 68 << 10

// mark is a magic number at an offset.
type mark struct {
	kind   Kind
	offset int
	magic  string
}

// marks returns all plain marks. The first match wins: a disk with a partition table can
// contain a filesystem's mark, but a filesystem cannot contain a partition table's.
func marks() []mark {
	return []mark{
		{Gzip, 0, "\x1f\x8b\x08"}, {Xz, 0, "\xfd7zXZ\x00"}, {Zstd, 0, "\x28\xb5\x2f\xfd"}, {Bzip2, 0, "BZh"},
		{LZ4, 0, "\x04\x22\x4d\x18"}, {LZ4, 0, "\x02\x21\x4c\x18"}, {LZMA, 0, "\x5d\x00\x00"}, {LZOP, 0, "\x89LZO\x00\r\n\x1a\n"},
		{Cpio, 0, "070701"}, {Cpio, 0, "070702"}, {Cpio, 0, "070707"}, {Cpio, 0, "07070X"}, {Zip, 0, "PK\x03\x04"}, {SevenZip, 0, "7z\xbc\xaf\x27\x1c"},
		{Deb, 0, "!<arch>\ndebian-binary"}, {RPM, 0, "\xed\xab\xee\xdb"},
		{QCOW2, 0, "QFI\xfb"}, {VMDK, 0, "KDMV"}, {VMDK, 0, "COWD"}, {VMDK, 0, "# Disk DescriptorFile"},
		{VHD, 0, "conectix"}, {VHDX, 0, "vhdxfile"}, {VDI, 0x40, "\x7f\x10\xda\xbe"}, {LUKS, 0, "LUKS\xba\xbe"},
		{Firmware, 0x28, "_FVH"}, {ELF, 0, "\x7fELF"}, {ARMImage, 0x38, "ARM\x64"},
		{ISO, 0x8001, "CD001"}, {GPT, 512, "EFI PART"}, {GPT, 4096, "EFI PART"},
		{Squashfs, 0, "hsqs"}, {XFS, 0, "XFSB"}, {EROFS, 1024, "\xe2\xe1\xf5\xe0"}, {Ext, 0x438, "\x53\xef"}, {Btrfs, 0x10040, "_BHRfS_M"},
		{FAT, 0x36, "FAT1"}, {FAT, 0x52, "FAT32"}, {Tar, 257, "ustar"},
	}
}

// Of returns the kind of a file that begins with head. head has HeadSize bytes, or all bytes of
// a shorter file.
func Of(head []byte) Kind {
	at := func(offset int, magic string) bool {
		return len(head) >= offset+len(magic) && string(head[offset:offset+len(magic)]) == magic
	}
	switch {
	case at(0x202, "HdrS"): // Documentation/arch/x86/boot.rst; it ends a boot sector, too
		return BzImage
	case at(0, "MZ"):
		return program(head)
	}
	for _, m := range marks() {
		if at(m.offset, m.magic) {
			return m.kind
		}
	}
	if at(510, "\x55\xaa") {
		return MBR
	}
	return document(head)
}

// program distinguishes EFI programs, which are PE files (PE format, section "MS-DOS stub" and
// "Section table").
func program(head []byte) Kind {
	if len(head) >= 0x3c && string(head[0x38:0x3c]) == "ARM\x64" {
		return ARMImage
	}
	if len(head) < 0x40 {
		return Unknown
	}
	pe := uint64(binary.LittleEndian.Uint32(head[0x3c:]))
	if pe+24 > uint64(len(head)) || string(head[pe:pe+4]) != "PE\x00\x00" {
		return Unknown
	}
	sections := uint64(binary.LittleEndian.Uint16(head[pe+6:]))
	table := pe + 24 + uint64(binary.LittleEndian.Uint16(head[pe+20:]))
	for i := range sections {
		if name := table + 40*i; name+8 <= uint64(len(head)) && string(bytes.TrimRight(head[name:name+8], "\x00")) == ".linux" {
			return UKI
		}
	}
	return PE
}

// OfFile is Of for a file of size bytes. It also examines the end.
func OfFile(r io.ReaderAt, size int64) (Kind, error) {
	head := make([]byte, min(size, HeadSize))
	if _, err := r.ReadAt(head, 0); err != nil && (err != io.EOF || size < 0) {
		return Unknown, fmt.Errorf("reading the first bytes: %w", err)
	}
	footer := make([]byte, min(size, vhdFooter))
	if _, err := r.ReadAt(footer, size-int64(len(footer))); err != nil && err != io.EOF {
		return Unknown, fmt.Errorf("reading the last bytes: %w", err)
	}
	return of(head, footer), nil
}

// OfBytes is OfFile for a file in memory.
func OfBytes(data []byte) Kind {
	return of(data[:min(len(data), HeadSize)], data[len(data)-min(len(data), vhdFooter):])
}

const vhdFooter = 512

// of examines both ends of a file. A fixed VHD is a raw disk with a footer, whatever the disk
// begins with.
func of(head, footer []byte) Kind {
	if len(footer) == vhdFooter && bytes.HasPrefix(footer, []byte("conectix")) {
		return VHD
	}
	return Of(head)
}

// document distinguishes the documents of this project's commands. The name of one member
// decides, wherever it is. That is enough for an error message, and readers of documents check
// for themselves.
func document(head []byte) Kind {
	switch {
	case bytes.HasPrefix(bytes.TrimLeft(head, " \t\r\n"), []byte("{")):
		for _, m := range []struct {
			kind   Kind
			member string
		}{
			{BootConfig, `"trust_domain"`}, {ReferenceValues, `"root_of_trust"`}, {Pins, `"verity_root_hash"`},
			{Measurements, `"measurements"`}, {Evidence, `"report"`},
		} {
			if bytes.Contains(head, []byte(m.member)) {
				return m.kind
			}
		}
		return JSON
	case bytes.HasPrefix(head, []byte("-----BEGIN ")):
		return PEM
	case len(head) >= 4 && head[0] == 0x30 && head[1] == 0x82 && int(binary.BigEndian.Uint16(head[2:])) == len(head)-4:
		return DER // a SEQUENCE that is all of the file
	case len(head) == reportSize && binary.LittleEndian.Uint32(head) < 16 && head[0] > 0:
		return Report
	}
	return Unknown
}

// reportSize is the size of an attestation report in bytes (SEV-SNP firmware ABI, 56860
// revision 1.58, table 23, ATTESTATION_REPORT). A report begins with its version.
const reportSize = 1184

// about is a kind's name with its article, and advice on how to get at its content.
type about struct{ name, advice string }

func abouts() map[Kind]about {
	decompress := func(name, program string) about { return about{name, "decompress it with " + program} }
	convert := func(name string) about { return about{name, "convert it with qemu-img convert -O raw"} }
	filesystem := func(name string) about {
		return about{name, "take the file out of it: it can be mounted with mount -o loop,ro"}
	}
	return map[Kind]about{
		Gzip: decompress("gzip data", "gzip -d"), Xz: decompress("xz data", "xz -d"), Zstd: decompress("zstd data", "zstd -d"),
		Bzip2: decompress("bzip2 data", "bzip2 -d"), LZ4: decompress("lz4 data", "lz4 -d"), LZMA: decompress("lzma data", "xz -d --format=lzma"),
		LZOP: decompress("lzop data", "lzop -d"),
		Tar:  {"a tar archive", "unpack it with tar -x"}, Cpio: {"a cpio archive", "unpack it with cpio -i"}, Zip: {"a zip archive", "unpack it with unzip"},
		SevenZip: {"a 7z archive", "unpack it with 7z x"}, Deb: {"a Debian package", "unpack it with dpkg-deb -x"}, RPM: {"an RPM package", "unpack it with rpm2cpio"},
		QCOW2: convert("a qcow2 disk image"), VMDK: convert("a VMDK disk image"), VHD: convert("a VHD disk image"),
		VHDX: convert("a VHDX disk image"), VDI: convert("a VDI disk image"),
		ISO:   filesystem("an ISO 9660 image"),
		GPT:   {"a disk with a partition table (GPT)", "take the partition out of it: losetup -P makes a device of each"},
		MBR:   {"a disk with a boot sector (MBR)", "take the partition out of it: losetup -P makes a device of each"},
		LUKS:  {"a LUKS container", "open it with cryptsetup open"},
		EROFS: filesystem("an EROFS filesystem"), Squashfs: filesystem("a squashfs filesystem"), Ext: filesystem("an ext2, ext3 or ext4 filesystem"),
		XFS: filesystem("an XFS filesystem"), Btrfs: filesystem("a btrfs filesystem"), FAT: filesystem("a FAT filesystem"),
		BzImage: {"a Linux kernel", "name it as the kernel"}, ARMImage: {"a Linux kernel for arm64", "take one for x86-64: SEV-SNP is AMD's"},
		UKI: {"a unified kernel image", "name it as the kernel, without an initramfs"}, PE: {"an EFI program", "name a Linux kernel"},
		ELF:        {"an ELF file", "a kernel is a bzImage (vmlinuz), not vmlinux"},
		Firmware:   {"a UEFI firmware", "name it as the firmware"},
		BootConfig: {"a boot.json", "initramfs configure puts it into an initramfs"}, Pins: {"the pins of a disk", "initramfs config takes them"},
		ReferenceValues: {"reference values", "keys put and attest take them"}, Measurements: {"launch digests", "refval new takes them"},
		Evidence: {"evidence", "report verify takes it"}, JSON: {"JSON of another kind", "name another file"},
		PEM: {"PEM data", "name another file"}, DER: {"DER data", "name another file"}, Report: {"an attestation report", "report verify takes it"},
	}
}

func (k Kind) String() string {
	if a, ok := abouts()[k]; ok {
		return a.name
	}
	return "of no known kind"
}

// Advice says what to do with such a file if another kind is wanted.
func (k Kind) Advice() string { return abouts()[k].advice }
