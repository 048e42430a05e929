package initramfstest

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"testing"
	"time"

	"github.com/rootvouch/rootvouch/boot/bootconfig"
	"github.com/rootvouch/rootvouch/boot/cmdline"
	"github.com/rootvouch/rootvouch/pins"
)

// Kernel writes an unpacked kernel package with all modules that
// initramfs.DefaultModules requires, and returns its directory.
func Kernel(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	kernel := Files{"modules.builtin": []byte("kernel/virtio_pci.ko\nkernel/virtio_console.ko\nkernel/af_packet.ko\nkernel/ext4.ko\n")}
	for name, needs := range map[string]string{
		"aesni_intel": "", "xts": "", "dm_mod": "", "dm_crypt": "dm-mod", "dm_bufio": "", "dm_verity": "dm-mod,dm-bufio", "virtio_blk": "",
		"virtio_net": "", "erofs": "", "overlay": "", "configfs": "", "tsm": "configfs", "sev_guest": "tsm", "extra": "",
	} {
		records := []string{"depends=" + needs}
		if name == "dm_verity" {
			records = append(records, "option=panic_on_error")
		}
		kernel["kernel/"+name+".ko.xz"] = Pack(t, ".xz", Module(name, records...))
	}
	kernel.Under("usr/lib/modules/"+Version).WriteTo(t, dir)
	Files{"boot/vmlinuz-" + Version: []byte("kernel")}.WriteTo(t, dir)
	return dir
}

// Program makes an ELF executable with program headers of these types.
func Program(kind elf.Type, headers ...elf.ProgType) []byte {
	const headerSize, programSize = 64, 56
	h := elf.Header64{Type: uint16(kind), Machine: uint16(elf.EM_X86_64), Version: 1, Entry: 0x400000,
		Phoff: headerSize, Phentsize: programSize, Phnum: uint16(len(headers)), Ehsize: headerSize}
	copy(h.Ident[:], "\x7fELF\x02\x01\x01")
	var buf bytes.Buffer
	put := func(v any) {
		if err := binary.Write(&buf, binary.LittleEndian, v); err != nil {
			panic(err)
		}
	}
	put(h)
	for _, p := range headers {
		put(elf.Prog64{Type: uint32(p), Vaddr: 0x400000, Filesz: headerSize, Memsz: headerSize})
	}
	return buf.Bytes()
}

// GuestBin writes programs of these names and returns their directory.
func GuestBin(t testing.TB, names ...string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range names {
		Files{name: append(Program(elf.ET_EXEC, elf.PT_LOAD), name...)}.WriteTo(t, dir)
	}
	return dir
}

// Pins returns made-up pins, which are those of no disk.
func Pins() pins.Pins {
	return pins.New(
		pins.Verity{RootHash: pins.Digest{1}, Salt: pins.HexBytes{2}, DataBlocks: 10, HashOffset: 40960, PayloadOffset: 1 << 20, PayloadSize: 49152},
		pins.Header{DiskUUID: pins.UUID{4}, HeaderSHA256: pins.Digest{5}},
		pins.EROFS, pins.InitOK)
}

// BootConfig makes a configuration with that trust root.
func BootConfig(trustRoot string) bootconfig.Config {
	return bootconfig.Config{
		Version:      bootconfig.Version,
		TrustDomain:  "example.org",
		SPIRE:        bootconfig.SPIRE{Addresses: []string{"10.0.2.2:8081"}, TrustRoot: trustRoot},
		KMS:          bootconfig.KMS{Addresses: []string{"10.0.2.2:8443"}, SPIFFEID: "spiffe://example.org/kms"},
		Disk:         bootconfig.NewDisk(Pins(), true),
		Network:      bootconfig.Network{Mode: bootconfig.NetworkDHCP},
		CommandLine:  cmdline.Default(),
		ReportDevice: bootconfig.ReportVirtioPort,
		Gate:         bootconfig.GateNone,
		Verification: bootconfig.VerificationFull,
		ClockFloor:   time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC),
		Console:      true,
		Devices:      bootconfig.DevicesOwn,
	}
}
