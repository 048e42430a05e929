package main

import (
	"bytes"
	"encoding/binary"
	"encoding/pem"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/rootvouch/rootvouch/internal/command"
	"github.com/rootvouch/rootvouch/internal/filekind"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/refval"
	"github.com/rootvouch/rootvouch/snp"
	"github.com/rootvouch/rootvouch/test/initramfstest"
	"github.com/rootvouch/rootvouch/test/spiffetest"
)

// slot is where a command gets the file.
const slot = "@"

// taker is a command that takes one file, and the kinds that it may take.
type taker struct {
	args  string
	takes []filekind.Kind
}

var unpackable = []filekind.Kind{filekind.Gzip, filekind.Xz, filekind.Zstd, filekind.Bzip2, filekind.Tar}

var takers = []taker{
	{"image build --root @ --out o1 --key-out o2 --pins-out o3", append([]filekind.Kind{filekind.EROFS, filekind.Squashfs, filekind.Ext}, unpackable...)},
	{"image inspect @", []filekind.Kind{filekind.LUKS, filekind.QCOW2}},
	{"image verify @ --pins pins.json --key key", []filekind.Kind{filekind.LUKS, filekind.QCOW2}},
	{"image verify disk --pins @ --key key", []filekind.Kind{filekind.Pins}},
	{"image extract @ --pins pins.json --key key --out o1", []filekind.Kind{filekind.LUKS, filekind.QCOW2}},
	{"image rekey @ --pins pins.json --key key --key-out o1 --pins-out o2", []filekind.Kind{filekind.LUKS, filekind.QCOW2}},
	{"initramfs build --kernel-tree @ --guest-bin . --out o1 --manifest-out o2", append([]filekind.Kind{filekind.Deb, filekind.RPM}, unpackable...)},
	{"initramfs config --trust-domain example.org --spire-address a:1 --kms-address b:2 --trust-root @ --pins pins.json --report-device sev-guest --out o1", []filekind.Kind{filekind.PEM}},
	{"initramfs config --trust-domain example.org --spire-address a:1 --kms-address b:2 --trust-root root.pem --pins @ --report-device sev-guest --out o1", []filekind.Kind{filekind.Pins}},
	{"initramfs configure --base @ --boot-config boot.json --out o1", []filekind.Kind{filekind.Zstd}},
	{"initramfs list @", []filekind.Kind{filekind.Zstd}},
	{"measure --firmware @ --vcpus 1 --vcpu-type EPYC-v4", []filekind.Kind{filekind.Firmware}},
	{"measure firmware --firmware @", []filekind.Kind{filekind.Firmware}},
	{"firmware inspect --firmware @", []filekind.Kind{filekind.Firmware}},
	{"firmware harden --firmware @ --out o1", []filekind.Kind{filekind.Firmware}},
	{"gate build --kernel @ --out o1", []filekind.Kind{filekind.BzImage, filekind.UKI, filekind.PE}},
	{"gate inspect --kernel @", []filekind.Kind{filekind.BzImage, filekind.UKI, filekind.PE}},
	{"refval new --root-of-trust amd --product Genoa=any --measurements @ --out o1", []filekind.Kind{filekind.Measurements, filekind.ReferenceValues}},
	{"refval new --root-of-trust emulated --ark @ --measurements m.json --out o1", []filekind.Kind{filekind.PEM, filekind.DER}},
	{"refval check @", []filekind.Kind{filekind.ReferenceValues}},
	{"report show @", []filekind.Kind{filekind.Report, filekind.Evidence}},
	{"report verify --report @ --refval refval.json", []filekind.Kind{filekind.Report, filekind.Evidence}},
	{"attest --address 127.0.0.1:1 --refval @", []filekind.Kind{filekind.ReferenceValues}},
	{"collateral fetch --collateral-dir . --base-url http://127.0.0.1:1 --report @", []filekind.Kind{filekind.Report, filekind.Evidence}},
	{"keys put --kms-socket none --spiffe-id spiffe://example.org/x --key key --pins @ --refval refval.json", []filekind.Kind{filekind.Pins}},
	{"keys put --kms-socket none --spiffe-id spiffe://example.org/x --key key --pins pins.json --refval @", []filekind.Kind{filekind.ReferenceValues}},
	{"vm run --print --platform snp --kernel none --initrd none --firmware @", []filekind.Kind{filekind.Firmware}},
	{"vm run --print --platform snp --firmware none --initrd none --kernel @", []filekind.Kind{filekind.BzImage, filekind.UKI, filekind.PE}},
	{"vm run --print --platform snp --firmware none --kernel none --initrd @", append([]filekind.Kind{filekind.Cpio, filekind.LZ4}, slices.DeleteFunc(slices.Clone(unpackable), func(k filekind.Kind) bool { return k == filekind.Tar })...)},
}

// kinds has a small file of each kind that a mark tells, whole in nothing but the mark.
func kinds(t *testing.T) map[string][]byte {
	at := func(offset int, magic string) []byte {
		file := make([]byte, 8192)
		copy(file[offset:], magic)
		return file
	}
	report := make([]byte, 1184)
	binary.LittleEndian.PutUint32(report, 5)
	certificate := []byte(spiffetest.New(t).PEM())
	block, _ := pem.Decode(certificate)
	return map[string][]byte{
		"gz": at(0, "\x1f\x8b\x08"), "xz": at(0, "\xfd7zXZ\x00"), "zstd": at(0, "\x28\xb5\x2f\xfd"), "bzip2": at(0, "BZh"), "lz4": at(0, "\x04\x22\x4d\x18"),
		"cpio": at(0, "070701"), "zip": at(0, "PK\x03\x04"), "deb": at(0, "!<arch>\ndebian-binary"), "rpm": at(0, "\xed\xab\xee\xdb"),
		"qcow2": at(0, "QFI\xfb"), "vmdk": at(0, "KDMV"), "luks": at(0, "LUKS\xba\xbe"), "gpt": at(512, "EFI PART"), "xfs": at(0, "XFSB"),
		"ext4": at(0x438, "\x53\xef"), "erofs": at(1024, "\xe2\xe1\xf5\xe0"), "squashfs": at(0, "hsqs"), "tar": at(257, "ustar"),
		"kernel": at(0x202, "HdrS"), "firmware": at(0x28, "_FVH"), "elf": at(0, "\x7fELF"),
		"a.pem": certificate, "a.der": block.Bytes, "a.report": report,
		"other.json": []byte(`{"a": 1}`), "m2.json": []byte(`{"measurements": 1}`), "evidence.json": []byte(`{"report": 1}`),
		"boot2.json": []byte(`{"trust_domain": 1}`), "pins2.json": []byte(`{"verity_root_hash": 1}`), "refval2.json": []byte(`{"root_of_trust": 1}`),
	}
}

// right has a good file for every other place of a command.
func right(t *testing.T) map[string][]byte {
	root := spiffetest.New(t).PEM()
	config, err := initramfstest.BootConfig(root).Encode()
	if err != nil {
		t.Fatal(err)
	}
	values, err := refval.New(refval.EmulatedARK(pins.Digest{1}), []refval.Measurement{{
		Digest: snp.Measurement{1}, HostCode: refval.HostCodeNone, Kernel: refval.KernelMeasured,
		Provenance: refval.Provenance{KernelSHA256: [32]byte{1}}, Gate: refval.GateNone, VCPUs: 1, CPUType: "EPYC-v4"}}).Encode()
	if err != nil {
		t.Fatal(err)
	}
	return map[string][]byte{"root.pem": []byte(root), "boot.json": config, "refval.json": values, "pins.json": initramfstest.Pins().Encode(),
		"m.json": []byte(`{"measurements": []}`), "key": make([]byte, 32)}
}

// TestWrongKinds gives every command a file of every kind that it does not take: it
// says which file, what the file is and that something else is wanted, and leaves
// nothing behind.
func TestWrongKinds(t *testing.T) {
	t.Chdir(t.TempDir())
	for _, files := range []map[string][]byte{kinds(t), right(t)} {
		for name, data := range files {
			if err := os.WriteFile(name, data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	tried := 0
	for name, data := range kinds(t) {
		kind := filekind.OfBytes(data)
		if kind == filekind.Unknown {
			t.Errorf("%s has no mark", name)
		}
		for _, c := range takers {
			if slices.Contains(c.takes, kind) {
				continue
			}
			tried++
			args := strings.Fields(strings.ReplaceAll(c.args, slot, name))
			var out, said bytes.Buffer
			status := command.Main(newRootCommand(args), args, &out, &said)
			text := said.String()
			if status == 0 || !strings.Contains(text, name) || !strings.Contains(text, kind.String()) || !strings.Contains(text, "want") {
				t.Errorf("rootvouch %s: status %d, %q; want an error that names %s, %q and what is wanted", strings.Join(args, " "), status, text, name, kind)
			}
			for _, output := range []string{"o1", "o2", "o3"} {
				if _, err := os.Lstat(output); err == nil {
					t.Errorf("rootvouch %s: left %s", strings.Join(args, " "), output)
					os.Remove(output)
				}
			}
		}
	}
	if tried < 600 {
		t.Errorf("tried %d cases, want more", tried)
	}
}
