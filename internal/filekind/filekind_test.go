package filekind_test

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/rootvouch/rootvouch/internal/filekind"
	"github.com/rootvouch/rootvouch/internal/needs"
)

// with returns a file of size bytes with data at an offset.
func with(size, offset int, data string) []byte {
	file := make([]byte, size)
	copy(file[offset:], data)
	return file
}

// program returns a PE file with one section.
func program(section string) []byte {
	file := with(1024, 0, "MZ")
	binary.LittleEndian.PutUint32(file[0x3c:], 0x80)
	copy(file[0x80:], "PE\x00\x00")
	binary.LittleEndian.PutUint16(file[0x86:], 1)
	binary.LittleEndian.PutUint16(file[0x94:], 240)
	copy(file[0x80+24+240:], section)
	return file
}

func TestOf(t *testing.T) {
	for name, c := range map[string]struct {
		file []byte
		want filekind.Kind
	}{
		"empty":               {nil, filekind.Unknown},
		"text":                {[]byte("hello, world\n"), filekind.Unknown},
		"zeros":               {make([]byte, filekind.HeadSize), filekind.Unknown},
		"two bytes of MZ":     {[]byte("MZ"), filekind.Unknown},
		"JSON of another":     {[]byte("\n {\"a\": 1}"), filekind.JSON},
		"pins":                {[]byte(`{"version": 1, "verity_root_hash": "00"}`), filekind.Pins},
		"boot.json":           {[]byte(`{"version": 1, "trust_domain": "x", "disk": {"verity_root_hash": "00"}}`), filekind.BootConfig},
		"refval.json":         {[]byte(`{"version": 1, "root_of_trust": "amd", "measurements": []}`), filekind.ReferenceValues},
		"measurements":        {[]byte(`{"measurements": []}`), filekind.Measurements},
		"evidence":            {[]byte(`{"version": 1, "report": "AA=="}`), filekind.Evidence},
		"PEM":                 {[]byte("-----BEGIN CERTIFICATE-----\n"), filekind.PEM},
		"DER":                 {with(0x104, 0, "\x30\x82\x01\x00"), filekind.DER},
		"DER, cut":            {with(0x103, 0, "\x30\x82\x01\x00"), filekind.Unknown},
		"a report":            {with(1184, 0, "\x03"), filekind.Report},
		"one byte more":       {with(1185, 0, "\x03"), filekind.Unknown},
		"MZ that points away": {with(64, 0x3c, "\xff\xff\xff\xff"), filekind.Unknown},
		"EFI program":         {program(".text"), filekind.PE},
		"UKI":                 {program(".linux"), filekind.UKI},
		"bzImage with a stub": {append(with(0x202, 0, "MZ"), "HdrS"...), filekind.BzImage},
		"bzImage, boot mark":  {append(with(0x202, 510, "\x55\xaa"), "HdrS"...), filekind.BzImage},
		"arm64 with a stub":   {append(with(0x38, 0, "MZ"), "ARM\x64"...), filekind.ARMImage},
		"MBR":                 {with(512, 510, "\x55\xaa"), filekind.MBR},
		"GPT behind its MBR":  {append(with(512, 510, "\x55\xaa"), "EFI PART"...), filekind.GPT},
		"ISO with a GPT":      {with(0x9000, 0x8001, "CD001"), filekind.ISO},
		"btrfs":               {with(filekind.HeadSize, 0x10040, "_BHRfS_M"), filekind.Btrfs},
		"firmware":            {with(4096, 0x28, "_FVH"), filekind.Firmware},
		"half a magic":        {[]byte("QFI"), filekind.Unknown},
	} {
		if got := filekind.Of(c.file); got != c.want {
			t.Errorf("%s: got %v, want %v", name, got, c.want)
		}
		if got, err := filekind.OfFile(bytes.NewReader(c.file), int64(len(c.file))); err != nil || got != c.want {
			t.Errorf("%s: OfFile: got %v, %v, want %v", name, got, err, c.want)
		}
		if got := filekind.OfBytes(c.file); got != c.want {
			t.Errorf("%s: OfBytes: got %v, want %v", name, got, c.want)
		}
	}
}

// TestFixedVHD: its mark is at the end.
func TestFixedVHD(t *testing.T) {
	disk := append(with(4096, 512, "EFI PART"), with(512, 0, "conectix")...)
	if got, err := filekind.OfFile(bytes.NewReader(disk), int64(len(disk))); err != nil || got != filekind.VHD {
		t.Errorf("got %v, %v, want a VHD", got, err)
	}
	if got := filekind.OfBytes(disk); got != filekind.VHD {
		t.Errorf("OfBytes: got %v, want a VHD", got)
	}
}

// TestEveryKindHasWords: a kind that can be recognised can be named.
func TestEveryKindHasWords(t *testing.T) {
	for k := filekind.Gzip; k <= filekind.Firmware; k++ {
		if k.Advice() == "" || k.String() == filekind.Unknown.String() {
			t.Errorf("kind %d has no name or no advice", int(k))
		}
	}
}

// TestMadeByTools holds the marks against the programs that make such files.
func TestMadeByTools(t *testing.T) {
	for _, c := range []struct {
		want filekind.Kind
		tool string
		args string // makes "file"; "plain" is a plain one, "empty" a directory
	}{
		{filekind.Gzip, "gzip", "-c plain >file"},
		{filekind.Xz, "xz", "-c plain >file"},
		{filekind.Zstd, "zstd", "-qc plain >file"},
		{filekind.Bzip2, "bzip2", "-c plain >file"},
		{filekind.LZ4, "lz4", "-qc plain >file"},
		{filekind.LZ4, "lz4", "-lqc plain >file"},
		{filekind.LZMA, "xz", "--format=lzma -c plain >file"},
		{filekind.Tar, "tar", "-cf file plain"},
		{filekind.Cpio, "cpio", "-o -H newc --quiet <names >file"},
		{filekind.Zip, "zip", "-q file.zip plain && mv file.zip file"},
		{filekind.QCOW2, "qemu-img", "create -q -f qcow2 file 1M"},
		{filekind.VMDK, "qemu-img", "create -q -f vmdk file 1M"},
		{filekind.VMDK, "qemu-img", "create -q -f vmdk -o subformat=monolithicFlat file 1M"},
		{filekind.VHD, "qemu-img", "create -q -f vpc file 1M"},
		{filekind.VHD, "qemu-img", "create -q -f vpc -o subformat=fixed file 1M"},
		{filekind.VHDX, "qemu-img", "create -q -f vhdx file 8M"},
		{filekind.VDI, "qemu-img", "create -q -f vdi file 1M"},
		{filekind.Ext, "mkfs.ext4", "-q file 4M"},
		{filekind.XFS, "mkfs.xfs", "-q -d file,name=file,size=320m"},
		{filekind.Btrfs, "mkfs.btrfs", "-q file"},
		{filekind.FAT, "mkfs.vfat", "-C file 4096 >/dev/null"},
		{filekind.FAT, "mkfs.vfat", "-F 32 -C file 65536 >/dev/null"},
		{filekind.Squashfs, "mksquashfs", "empty file -quiet -no-progress >/dev/null"},
		{filekind.EROFS, "mkfs.erofs", "file empty >/dev/null"},
		{filekind.GPT, "sfdisk", "-q file <gpt"},
		{filekind.MBR, "sfdisk", "-q file <dos"},
		{filekind.LUKS, "cryptsetup", "luksFormat -q --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --key-file plain file"},
	} {
		t.Run(c.tool+" "+c.args, func(t *testing.T) {
			needs.Tool(t, c.tool)
			dir := t.TempDir()
			for name, data := range map[string][]byte{
				"plain": bytes.Repeat([]byte("rootvouch\n"), 100), "names": []byte("plain\n"), "gpt": []byte("label: gpt\n"), "dos": []byte("label: dos\n"),
			} {
				if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			make := exec.Command("sh", "-ec", "mkdir empty; "+map[string]string{"sfdisk": "truncate -s 4M file; ", "cryptsetup": "truncate -s 32M file; ", "mkfs.btrfs": "truncate -s 128M file; "}[c.tool]+c.tool+" "+c.args)
			make.Dir = dir
			if out, err := make.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			f, err := os.Open(filepath.Join(dir, "file"))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			info, err := f.Stat()
			if err != nil {
				t.Fatal(err)
			}
			if got, err := filekind.OfFile(f, info.Size()); err != nil || got != c.want {
				t.Errorf("got %v, %v, want %v", got, err, c.want)
			}
		})
	}
}

// TestStockParts holds the marks against what scripts/setup fetched.
func TestStockParts(t *testing.T) {
	for pattern, want := range map[string]filekind.Kind{
		"firmware/usr/share/ovmf/OVMF.amdsev.fd": filekind.Firmware,
		"kernel/boot/vmlinuz-*":                  filekind.BzImage,
	} {
		found, err := filepath.Glob(filepath.Join(needs.Cache(t), pattern))
		if err != nil || len(found) == 0 {
			t.Logf("%s: not there", pattern)
			continue
		}
		data, err := os.ReadFile(found[0])
		if err != nil {
			t.Fatal(err)
		}
		if got := filekind.Of(data); got != want {
			t.Errorf("%s: got %v, want %v", found[0], got, want)
		}
	}
}
