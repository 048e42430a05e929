package launch_test

import (
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/rootvouch/rootvouch/snp/launch"
	"github.com/rootvouch/rootvouch/test/firmwaretest"
)

// goodFirmware is a firmware that can check a kernel.
func goodFirmware() firmwaretest.Image {
	return firmwaretest.Image{
		Pages:   1,
		Entries: []firmwaretest.TableEntry{{GUID: firmwaretest.Hashes, Data: u32(0x803c00, 0x400)}, {GUID: firmwaretest.Reset, Data: u32(0x80b004)}},
		Sections: []firmwaretest.Section{
			{GPA: 0x800000, Size: 0x1000, Kind: 1},
			{GPA: 0x801000, Size: 0x1000, Kind: 2},
			{GPA: 0x802000, Size: 0x1000, Kind: 3},
			{GPA: 0x803000, Size: 0x1000, Kind: 0x10},
			{GPA: 0x804000, Size: 0x2000, Kind: 1},
			{GPA: 0x806000, Size: 0x1000, Kind: 4},
		},
	}
}

// u32 is the little-endian form of values.
func u32(values ...uint32) []byte { return firmwaretest.U32(values...) }

// TestParseFirmware reads two firmware images as they were built.
func TestParseFirmware(t *testing.T) {
	for _, image := range []firmwaretest.Image{goodFirmware(), firmwaretest.AmdSev()} {
		f, err := launch.ParseFirmware(image.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		if eip, err := f.ResetEIP(); err != nil || eip != 0x80b004 {
			t.Errorf("reset address is %#x, %v, want 0x80b004", eip, err)
		}
		var got []firmwaretest.Section
		for _, s := range f.Sections() {
			got = append(got, firmwaretest.Section{GPA: s.GPA, Size: s.Size, Kind: uint32(s.Type)})
		}
		if !slices.Equal(got, image.Sections) {
			t.Errorf("sections are %v, want %v", got, image.Sections)
		}
	}
	var names []string
	for _, s := range mustFirmware(t, firmwaretest.AmdSev()).Sections() {
		names = append(names, s.Type.String())
	}
	if got, want := strings.Join(names, " "), "SNP_SEC_MEM SNP_SEC_MEM SNP_SECRETS CPUID SVSM_CAA SNP_KERNEL_HASHES SNP_SEC_MEM"; got != want {
		t.Errorf("sections are %s, want %s", got, want)
	}
}

// TestParseFirmwareRefusals changes one thing in a good firmware; the error
// names where it is.
func TestParseFirmwareRefusals(t *testing.T) {
	put := func(offset int, v uint32) func([]byte) []byte {
		return func(b []byte) []byte {
			binary.LittleEndian.PutUint32(b[offset:], v)
			return b
		}
	}
	sections := func(change func(s []firmwaretest.Section) []firmwaretest.Section) firmwaretest.Image {
		f := goodFirmware()
		f.Sections = change(f.Sections)
		return f
	}
	with := func(change func(f *firmwaretest.Image)) []byte {
		f := goodFirmware()
		change(&f)
		return f.Bytes()
	}
	// Offsets in the good firmware.
	const (
		footer   = launch.PageSize - 32 - 18
		reset    = footer - 22
		hashes   = reset - 26
		pointer  = hashes - 22
		metadata = pointer - 16 - 6*12
		first    = metadata + 16
	)
	resize := func(at int, size uint16) func(b []byte) {
		return func(b []byte) { binary.LittleEndian.PutUint16(b[at-pointer:], size) }
	}
	for _, c := range []struct {
		name   string
		image  []byte
		offset int
		want   string
	}{
		{"empty", nil, 0, "empty"},
		{"not whole pages", make([]byte, 4097), 4097, "multiple of 4096"},
		{"too long", make([]byte, launch.MaxImageSize+4096), launch.MaxImageSize, "more than 67108864 bytes"},
		{"table shorter than its footer", with(func(f *firmwaretest.Image) { f.Table = resize(footer, 17) }), footer, "table has 17 bytes"},
		{"table longer than the image", with(func(f *firmwaretest.Image) { f.Table = resize(footer, 0xfff0) }), footer, "table has 65520 bytes"},
		{"table cut inside an entry", with(func(f *firmwaretest.Image) { f.Table = resize(footer, 18+22+10) }), footer - 22 - 10, "10 bytes left over"},
		{"entry of size 0 (circular)", with(func(f *firmwaretest.Image) { f.Table = resize(reset+4, 0) }), reset + 4, "table entry has 0 bytes"},
		{"entry longer than the table", with(func(f *firmwaretest.Image) { f.Table = resize(reset+4, 0x200) }), reset + 4, "table entry has 512 bytes"},
		{"entry twice", with(func(f *firmwaretest.Image) { f.Entries[1].GUID = firmwaretest.Hashes; f.Entries[1].Data = u32(0, 0) }), footer - 26 - 18, "occurs twice"},
		{"reset block too short", with(func(f *firmwaretest.Image) { f.Entries[1].Data = []byte{1, 2} }), reset + 2, "has 2 bytes of data, want 4"},
		{"reset block too long", with(func(f *firmwaretest.Image) { f.Entries[1].Data = u32(1, 2) }), reset - 4, "has 8 bytes of data, want 4"},
		{"hashes entry too short", with(func(f *firmwaretest.Image) { f.Entries[0].Data = u32(1) }), hashes + 4, "has 4 bytes of data, want 8"},
		{"metadata before the image", with(func(f *firmwaretest.Image) { f.Pointer = func(uint32) uint32 { return 0x1001 } }), pointer, "but the image has 0x1000"},
		{"metadata absurdly far", with(func(f *firmwaretest.Image) { f.Pointer = func(uint32) uint32 { return 0xffffffff } }), pointer, "but the image has 0x1000"},
		{"metadata in the table (circular)", with(func(f *firmwaretest.Image) { f.Pointer = func(uint32) uint32 { return 32 + 18 + 22 } }), pointer, "runs into the table"},
		{"metadata at the end", with(func(f *firmwaretest.Image) { f.Pointer = func(uint32) uint32 { return 0 } }), pointer, "runs into the table"},
		{"metadata header cut by the table", with(func(f *firmwaretest.Image) { f.Pointer = func(n uint32) uint32 { return n - 6*12 - 4 } }), pointer, "runs into the table"},
		{"metadata elsewhere", with(func(f *firmwaretest.Image) { f.Pointer = func(n uint32) uint32 { return n + 64 } }), metadata - 64, "signature"},
		{"metadata signature", with(func(f *firmwaretest.Image) { f.Metadata = put(0, 0) }), metadata, "signature"},
		{"metadata version", with(func(f *firmwaretest.Image) { f.Metadata = put(8, 2) }), metadata + 8, "version is 2, want 1"},
		{"metadata size", with(func(f *firmwaretest.Image) { f.Metadata = put(4, 16) }), metadata + 4, "has 16 bytes, want 88"},
		{"no sections", with(func(f *firmwaretest.Image) { f.Metadata = put(12, 0) }), metadata + 12, "has 0 sections"},
		{"too many sections", with(func(f *firmwaretest.Image) { f.Metadata = put(12, 0x15555555) }), metadata + 12, "want 1 to 64"},
		{"sections cut by the table", with(func(f *firmwaretest.Image) {
			f.Metadata = func(b []byte) []byte { copy(b[4:], u32(16+7*12, 1, 7)); return b }
		}), metadata + 4, "runs into the table"},
		{"section not on a page", sections(func(s []firmwaretest.Section) []firmwaretest.Section { s[0].GPA++; return s }).Bytes(), first, "want a multiple of 0x1000"},
		{"section of size 0", sections(func(s []firmwaretest.Section) []firmwaretest.Section { s[0].Size = 0; return s }).Bytes(), first + 4, "has 0x0 bytes"},
		{"section of half a page", sections(func(s []firmwaretest.Section) []firmwaretest.Section { s[1].Size = 0x800; return s }).Bytes(), first + 12 + 4, "has 0x800 bytes"},
		{"section beyond 4 GiB", sections(func(s []firmwaretest.Section) []firmwaretest.Section {
			s[5] = firmwaretest.Section{GPA: 0xfffff000, Size: 0x2000, Kind: 1}
			return s
		}).Bytes(), first + 60 + 4, "ends below 4 GiB"},
		{"secrets of two pages", sections(func(s []firmwaretest.Section) []firmwaretest.Section {
			s[1] = firmwaretest.Section{GPA: 0x900000, Size: 0x2000, Kind: 2}
			return s
		}).Bytes(), first + 12 + 4, "SNP_SECRETS section has 0x2000 bytes"},
		{"CPUID of two pages", sections(func(s []firmwaretest.Section) []firmwaretest.Section {
			s[2] = firmwaretest.Section{GPA: 0x900000, Size: 0x2000, Kind: 3}
			return s
		}).Bytes(), first + 24 + 4, "CPUID section has 0x2000 bytes"},
		{"hashes of two pages", sections(func(s []firmwaretest.Section) []firmwaretest.Section {
			s[3] = firmwaretest.Section{GPA: 0x900000, Size: 0x2000, Kind: 16}
			return s
		}).Bytes(), first + 36 + 4, "SNP_KERNEL_HASHES section has 0x2000 bytes"},
		{"hashes twice", sections(func(s []firmwaretest.Section) []firmwaretest.Section { s[5].Kind = 16; return s }).Bytes(), first + 60 + 8, "occurs twice, the other at offset"},
		{"sections overlap", sections(func(s []firmwaretest.Section) []firmwaretest.Section { s[4].GPA = 0x802000; return s }).Bytes(), first + 48, "overlaps the CPUID section"},
		{"same section twice", sections(func(s []firmwaretest.Section) []firmwaretest.Section { s[4] = s[0]; return s }).Bytes(), first + 48, "overlaps the SNP_SEC_MEM section"},
		{"sections absurdly large", sections(func(s []firmwaretest.Section) []firmwaretest.Section {
			s[4] = firmwaretest.Section{GPA: 0x10000000, Size: 0x20000000, Kind: 1}
			return s
		}).Bytes(), first + 48 + 4, "want at most"},
	} {
		_, err := launch.ParseFirmware(c.image)
		var format *launch.FormatError
		if !errors.As(err, &format) || format.Offset != c.offset || !strings.Contains(format.Problem, c.want) {
			t.Errorf("%s: got %v, want offset %#x and %q", c.name, err, c.offset, c.want)
		}
	}
}

// TestFirmwareUse refuses launches that a parsed firmware does not support.
func TestFirmwareUse(t *testing.T) {
	snp := func(in launch.Inputs) launch.Inputs {
		in.Mode, in.VCPUs = launch.SNP, max(in.VCPUs, 1)
		in.VCPU = launch.VCPU{VMM: launch.QEMU, VMSA: launch.CurrentVMSA, CPU: mustCPU(t, "EPYC-v4"), Features: 1}
		return in
	}
	parse := func(f firmwaretest.Image) *launch.Firmware {
		parsed, err := launch.ParseFirmware(f.Bytes())
		if err != nil {
			t.Fatal(err)
		}
		return parsed
	}
	with := func(change func(f *firmwaretest.Image)) *launch.Firmware {
		f := goodFirmware()
		change(&f)
		return parse(f)
	}
	blank, err := launch.ParseFirmware(make([]byte, 4096))
	if err != nil {
		t.Fatal(err)
	}
	hashes := mustHashes(t, nil, nil, "")
	svsm := goodFirmware()
	svsm.Entries = append(svsm.Entries, firmwaretest.TableEntry{GUID: firmwaretest.Entry, Data: u32(0x1000)})
	for _, c := range []struct {
		name string
		in   launch.Inputs
		want string
	}{
		{"no table", snp(launch.Inputs{Firmware: blank}), "offset 0xfce: no GUIDed table ends here, so there is no SEV metadata"},
		{"unknown section", snp(launch.Inputs{Firmware: with(func(f *firmwaretest.Image) { f.Sections[5].Kind = 0x77 })}), "type 0x77, which no launcher here knows"},
		{"section in the firmware", snp(launch.Inputs{Firmware: with(func(f *firmwaretest.Image) { f.Sections[5].GPA = 0xfffff000 })}), "overlaps the firmware"},
		{"no hashes section", snp(launch.Inputs{Hashes: hashes, Firmware: with(func(f *firmwaretest.Image) { f.Sections = f.Sections[:3] })}), "no SNP_KERNEL_HASHES section"},
		{"no hashes entry", snp(launch.Inputs{Hashes: hashes, Firmware: with(func(f *firmwaretest.Image) { f.Entries = f.Entries[1:] })}), "cannot check a kernel"},
		{"hashes entry of zero", snp(launch.Inputs{Hashes: hashes, Firmware: with(func(f *firmwaretest.Image) { f.Entries[0].Data = u32(0, 0) })}), "cannot check a kernel"},
		{"hashes area too small", snp(launch.Inputs{Hashes: hashes, Firmware: with(func(f *firmwaretest.Image) { f.Entries[0].Data = u32(0x803c00, 175) })}), "want at least 176"},
		{"hashes before their page", snp(launch.Inputs{Hashes: hashes, Firmware: with(func(f *firmwaretest.Image) { f.Entries[0].Data = u32(0x802ff0, 0x400) })}), "not inside its page"},
		{"hashes across their page", snp(launch.Inputs{Hashes: hashes, Firmware: with(func(f *firmwaretest.Image) { f.Entries[0].Data = u32(0x803f51, 0x400) })}), "not inside its page"},
		{"no reset address", snp(launch.Inputs{VCPUs: 2, Firmware: with(func(f *firmwaretest.Image) { f.Entries = f.Entries[:1] })}), "no SEV-ES reset block"},
		{"reset address 0", snp(launch.Inputs{VCPUs: 2, Firmware: with(func(f *firmwaretest.Image) { f.Entries[1].Data = u32(0) })}), "reset address is 0"},
		{"no firmware", snp(launch.Inputs{}), "no firmware"},
		{"SVSM in mode snp", snp(launch.Inputs{Firmware: parse(goodFirmware()), SVSM: blank}), "want snp-svsm"},
	} {
		if got, err := launch.Digest(c.in); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, %v, want %q", c.name, got, err, c.want)
		}
	}
	// One vCPU starts at the reset vector and needs no reset block.
	if _, err := launch.Digest(snp(launch.Inputs{VCPUs: 1, Firmware: with(func(f *firmwaretest.Image) { f.Entries = f.Entries[:1] })})); err != nil {
		t.Errorf("one vCPU without a reset block: got %v", err)
	}
	in := snp(launch.Inputs{Firmware: parse(goodFirmware()), SVSM: parse(svsm), VarsSize: 0x1000})
	in.Mode = launch.SNPSVSM
	for name, change := range map[string]func(in *launch.Inputs){
		"SVSM starts behind its end": func(*launch.Inputs) {},
		"SVSM without an entry":      func(in *launch.Inputs) { in.SVSM = in.Firmware },
		"SVSM with kernel hashes":    func(in *launch.Inputs) { in.Hashes = hashes },
		"SVSM on EC2":                func(in *launch.Inputs) { in.VMM = launch.EC2 },
		"no room for the SVSM":       func(in *launch.Inputs) { in.VarsSize = 0xfffff000 },
		"odd variable store":         func(in *launch.Inputs) { in.VarsSize = 1 },
		"no variable store":          func(in *launch.Inputs) { in.VarsSize = 0 },
	} {
		in := in
		change(&in)
		if got, err := launch.Digest(in); err == nil {
			t.Errorf("%s: got %v, want an error", name, got)
		}
	}
}

// FuzzOVMFMetadata checks that no image makes the parser or a digest panic, and
// that every refusal of an image names an offset. The input is the end of the
// image. Zeros before it fill up whole pages.
func FuzzOVMFMetadata(f *testing.F) {
	good := goodFirmware().Bytes()
	f.Add(good[len(good)-256:])
	f.Add(firmwaretest.AmdSev().Bytes())
	f.Add([]byte{})
	cpu := mustCPU(f, "EPYC-v4")
	hashes := mustHashes(f, nil, nil, "")
	f.Fuzz(func(t *testing.T, end []byte) {
		image := append(make([]byte, (launch.PageSize-len(end)%launch.PageSize)%launch.PageSize), end...)
		firmware, err := launch.ParseFirmware(image)
		if err != nil {
			if format := (*launch.FormatError)(nil); !errors.As(err, &format) || format.Offset < 0 || format.Offset > len(image) {
				t.Errorf("got %v, want a FormatError within the image", err)
			}
			return
		}
		var measured uint64
		for _, s := range firmware.Sections() {
			measured += uint64(s.Size)
		}
		if measured > 16<<20 {
			return // correct, but slow
		}
		vcpu := launch.VCPU{VMM: launch.QEMU, VMSA: launch.CurrentVMSA, CPU: cpu, Features: 1}
		for _, mode := range []launch.Mode{launch.SNP, launch.SEVES, launch.SEV} {
			in := launch.Inputs{Mode: mode, Firmware: firmware, Hashes: hashes, VCPUs: 2, VCPU: vcpu}
			_, _ = launch.Compute(in) // an error is fine, a panic is not
		}
	})
}
