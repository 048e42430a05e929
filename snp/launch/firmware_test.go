package launch_test

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/rootvouch/rootvouch/snp/launch"
)

// The pieces of a small firmware, laid out as OVMF's: metadata, then the table
// that points to it, then 32 bytes.
const (
	guidFooter   = "de82b596b21ff745baeaa366c55a082d"
	guidReset    = "de71f7007e1acb4f890e68c77e2fb44e"
	guidHashes   = "1f3755723b3a044b927b1da6efa8d454"
	guidMetadata = "666588dc4a989847a75e5585a7bf67cc"
	guidSVSM     = "12a689a797054b4ca49fcbb1fe9d1ddd"
)

type entry struct {
	guid string
	data []byte
}

type section struct{ gpa, size, kind uint32 }

// firmware is what a test wants in an image.
type firmware struct {
	pages    int
	entries  []entry
	sections []section
	metadata func(b []byte) []byte // changes the metadata
	table    func(b []byte)        // changes the table
	pointer  func(fromEnd uint32) uint32
}

func u32(values ...uint32) []byte {
	var b []byte
	for _, v := range values {
		b = binary.LittleEndian.AppendUint32(b, v)
	}
	return b
}

// goodFirmware is a firmware that can check a kernel.
func goodFirmware() firmware {
	return firmware{
		pages:   1,
		entries: []entry{{guidHashes, u32(0x803c00, 0x400)}, {guidReset, u32(0x80b004)}},
		sections: []section{
			{0x800000, 0x1000, 1}, {0x801000, 0x1000, 2}, {0x802000, 0x1000, 3}, {0x803000, 0x1000, 0x10}, {0x804000, 0x2000, 1}, {0x806000, 0x1000, 4},
		},
	}
}

func (f firmware) image() []byte {
	metadata := append([]byte("ASEV"), u32(uint32(16+12*len(f.sections)), 1, uint32(len(f.sections)))...)
	for _, s := range f.sections {
		metadata = append(metadata, u32(s.gpa, s.size, s.kind)...)
	}
	if f.metadata != nil {
		metadata = f.metadata(metadata)
	}
	var table []byte
	for _, e := range append([]entry{{guidMetadata, u32(0)}}, f.entries...) {
		table = append(table, e.data...)
		table = binary.LittleEndian.AppendUint16(table, uint16(len(e.data)+18))
		guid, err := hex.DecodeString(e.guid)
		if err != nil {
			panic(err)
		}
		table = append(table, guid...)
	}
	table = binary.LittleEndian.AppendUint16(table, uint16(len(table)+18))
	footer, err := hex.DecodeString(guidFooter)
	if err != nil {
		panic(err)
	}
	table = append(table, footer...)
	fromEnd := uint32(len(metadata) + len(table) + 32)
	if f.pointer != nil {
		fromEnd = f.pointer(fromEnd)
	}
	binary.LittleEndian.PutUint32(table, fromEnd)
	if f.table != nil {
		f.table(table)
	}
	image := make([]byte, f.pages*launch.PageSize)
	copy(image[len(image)-32-len(table)-len(metadata):], slices.Concat(metadata, table))
	return image
}

// TestParseFirmware reads the good firmware, and real ones against what was
// published about them.
func TestParseFirmware(t *testing.T) {
	f, err := launch.ParseFirmware(goodFirmware().image())
	if err != nil {
		t.Fatal(err)
	}
	if got := f.Sections(); len(got) != 6 || got[3].Type != launch.SectionKernelHashes || got[4].Size != 0x2000 {
		t.Errorf("got sections %v", got)
	}
	var v struct {
		Metadata []struct {
			OVMF     string
			Reset    string `json:"reset_eip"`
			Sections []struct{ GPA, Size, Type string }
		} `json:"ovmf_metadata"`
	}
	readJSON(t, "intermediates.json", &v)
	for _, want := range v.Metadata {
		f := firmwareVector(t, want.OVMF)
		if eip, err := f.ResetEIP(); err != nil || hexOf(eip) != want.Reset {
			t.Errorf("%s: reset address is %#x, %v, want %s", want.OVMF, eip, err, want.Reset)
		}
		var got, wanted []string
		for _, s := range f.Sections() {
			got = append(got, hexOf(s.GPA)+" "+hexOf(s.Size)+" "+s.Type.String())
		}
		for _, s := range want.Sections {
			wanted = append(wanted, s.GPA+" "+s.Size+" "+s.Type)
		}
		if !slices.Equal(got, wanted) {
			t.Errorf("%s: sections are %q, want %q", want.OVMF, got, wanted)
		}
	}
}

func hexOf(v uint32) string {
	return "0x" + strings.TrimLeft(hex.EncodeToString(binary.BigEndian.AppendUint32(nil, v)), "0")
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
	sections := func(change func(s []section) []section) firmware {
		f := goodFirmware()
		f.sections = change(f.sections)
		return f
	}
	with := func(change func(f *firmware)) []byte {
		f := goodFirmware()
		change(&f)
		return f.image()
	}
	// Where things are in the good firmware.
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
		{"table shorter than its footer", with(func(f *firmware) { f.table = resize(footer, 17) }), footer, "table has 17 bytes"},
		{"table longer than the image", with(func(f *firmware) { f.table = resize(footer, 0xfff0) }), footer, "table has 65520 bytes"},
		{"table cut inside an entry", with(func(f *firmware) { f.table = resize(footer, 18+22+10) }), footer - 22 - 10, "10 bytes left over"},
		{"entry of size 0 (circular)", with(func(f *firmware) { f.table = resize(reset+4, 0) }), reset + 4, "table entry has 0 bytes"},
		{"entry longer than the table", with(func(f *firmware) { f.table = resize(reset+4, 0x200) }), reset + 4, "table entry has 512 bytes"},
		{"entry twice", with(func(f *firmware) { f.entries[1].guid = guidHashes; f.entries[1].data = u32(0, 0) }), footer - 26 - 18, "is there twice"},
		{"reset block too short", with(func(f *firmware) { f.entries[1].data = []byte{1, 2} }), reset + 2, "has 2 bytes of data, want 4"},
		{"reset block too long", with(func(f *firmware) { f.entries[1].data = u32(1, 2) }), reset - 4, "has 8 bytes of data, want 4"},
		{"hashes entry too short", with(func(f *firmware) { f.entries[0].data = u32(1) }), hashes + 4, "has 4 bytes of data, want 8"},
		{"metadata before the image", with(func(f *firmware) { f.pointer = func(uint32) uint32 { return 0x1001 } }), pointer, "but the image has 0x1000"},
		{"metadata absurdly far", with(func(f *firmware) { f.pointer = func(uint32) uint32 { return 0xffffffff } }), pointer, "but the image has 0x1000"},
		{"metadata in the table (circular)", with(func(f *firmware) { f.pointer = func(uint32) uint32 { return 32 + 18 + 22 } }), pointer, "runs into the table"},
		{"metadata at the end", with(func(f *firmware) { f.pointer = func(uint32) uint32 { return 0 } }), pointer, "runs into the table"},
		{"metadata header cut by the table", with(func(f *firmware) { f.pointer = func(n uint32) uint32 { return n - 6*12 - 4 } }), pointer, "runs into the table"},
		{"metadata elsewhere", with(func(f *firmware) { f.pointer = func(n uint32) uint32 { return n + 64 } }), metadata - 64, "signature"},
		{"metadata signature", with(func(f *firmware) { f.metadata = put(0, 0) }), metadata, "signature"},
		{"metadata version", with(func(f *firmware) { f.metadata = put(8, 2) }), metadata + 8, "version is 2, want 1"},
		{"metadata size", with(func(f *firmware) { f.metadata = put(4, 16) }), metadata + 4, "has 16 bytes, want 88"},
		{"no sections", with(func(f *firmware) { f.metadata = put(12, 0) }), metadata + 12, "has 0 sections"},
		{"too many sections", with(func(f *firmware) { f.metadata = put(12, 0x15555555) }), metadata + 12, "want 1 to 64"},
		{"sections cut by the table", with(func(f *firmware) {
			f.metadata = func(b []byte) []byte { copy(b[4:], u32(16+7*12, 1, 7)); return b }
		}), metadata + 4, "runs into the table"},
		{"section not on a page", sections(func(s []section) []section { s[0].gpa++; return s }).image(), first, "want a multiple of 0x1000"},
		{"section of size 0", sections(func(s []section) []section { s[0].size = 0; return s }).image(), first + 4, "has 0x0 bytes"},
		{"section of half a page", sections(func(s []section) []section { s[1].size = 0x800; return s }).image(), first + 12 + 4, "has 0x800 bytes"},
		{"section beyond 4 GiB", sections(func(s []section) []section { s[5] = section{0xfffff000, 0x2000, 1}; return s }).image(), first + 60 + 4, "ends below 4 GiB"},
		{"secrets of two pages", sections(func(s []section) []section { s[1] = section{0x900000, 0x2000, 2}; return s }).image(), first + 12 + 4, "SNP_SECRETS section has 0x2000 bytes"},
		{"CPUID of two pages", sections(func(s []section) []section { s[2] = section{0x900000, 0x2000, 3}; return s }).image(), first + 24 + 4, "CPUID section has 0x2000 bytes"},
		{"hashes of two pages", sections(func(s []section) []section { s[3] = section{0x900000, 0x2000, 16}; return s }).image(), first + 36 + 4, "SNP_KERNEL_HASHES section has 0x2000 bytes"},
		{"hashes twice", sections(func(s []section) []section { s[5].kind = 16; return s }).image(), first + 60 + 8, "is there twice, the other at offset"},
		{"sections overlap", sections(func(s []section) []section { s[4].gpa = 0x802000; return s }).image(), first + 48, "overlaps the CPUID section"},
		{"same section twice", sections(func(s []section) []section { s[4] = s[0]; return s }).image(), first + 48, "overlaps the SNP_SEC_MEM section"},
		{"sections absurdly large", sections(func(s []section) []section { s[4] = section{0x10000000, 0x20000000, 1}; return s }).image(), first + 48 + 4, "want at most"},
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
	parse := func(f firmware) *launch.Firmware {
		parsed, err := launch.ParseFirmware(f.image())
		if err != nil {
			t.Fatal(err)
		}
		return parsed
	}
	with := func(change func(f *firmware)) *launch.Firmware {
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
	svsm.entries = append(svsm.entries, entry{guidSVSM, u32(0x1000)})
	for _, c := range []struct {
		name string
		in   launch.Inputs
		want string
	}{
		{"no table", snp(launch.Inputs{Firmware: blank}), "offset 0xfce: no GUIDed table ends here, so there is no SEV metadata"},
		{"unknown section", snp(launch.Inputs{Firmware: with(func(f *firmware) { f.sections[5].kind = 0x77 })}), "type 0x77, which no launcher here knows"},
		{"section in the firmware", snp(launch.Inputs{Firmware: with(func(f *firmware) { f.sections[5].gpa = 0xfffff000 })}), "overlaps the firmware"},
		{"no hashes section", snp(launch.Inputs{Hashes: hashes, Firmware: with(func(f *firmware) { f.sections = f.sections[:3] })}), "no SNP_KERNEL_HASHES section"},
		{"no hashes entry", snp(launch.Inputs{Hashes: hashes, Firmware: with(func(f *firmware) { f.entries = f.entries[1:] })}), "cannot check a kernel"},
		{"hashes entry of zero", snp(launch.Inputs{Hashes: hashes, Firmware: with(func(f *firmware) { f.entries[0].data = u32(0, 0) })}), "cannot check a kernel"},
		{"hashes area too small", snp(launch.Inputs{Hashes: hashes, Firmware: with(func(f *firmware) { f.entries[0].data = u32(0x803c00, 175) })}), "want at least 176"},
		{"hashes before their page", snp(launch.Inputs{Hashes: hashes, Firmware: with(func(f *firmware) { f.entries[0].data = u32(0x802ff0, 0x400) })}), "not inside its page"},
		{"hashes across their page", snp(launch.Inputs{Hashes: hashes, Firmware: with(func(f *firmware) { f.entries[0].data = u32(0x803f51, 0x400) })}), "not inside its page"},
		{"no reset address", snp(launch.Inputs{VCPUs: 2, Firmware: with(func(f *firmware) { f.entries = f.entries[:1] })}), "no SEV-ES reset block"},
		{"reset address 0", snp(launch.Inputs{VCPUs: 2, Firmware: with(func(f *firmware) { f.entries[1].data = u32(0) })}), "reset address is 0"},
		{"no firmware", snp(launch.Inputs{}), "no firmware"},
		{"SVSM in mode snp", snp(launch.Inputs{Firmware: parse(goodFirmware()), SVSM: blank}), "want snp-svsm"},
	} {
		if got, err := launch.Digest(c.in); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, %v, want %q", c.name, got, err, c.want)
		}
	}
	// One vCPU starts at the reset vector and needs no reset block.
	if _, err := launch.Digest(snp(launch.Inputs{VCPUs: 1, Firmware: with(func(f *firmware) { f.entries = f.entries[:1] })})); err != nil {
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

// FuzzOVMFMetadata holds that no image makes the parser or a digest panic, and
// that every refusal of an image names an offset. The input is the end of the
// image, zeros up to whole pages are before it.
func FuzzOVMFMetadata(f *testing.F) {
	good := goodFirmware().image()
	f.Add(good[len(good)-256:])
	f.Add(firmwareVectorBytes(f, "ovmf_AmdSev_suffix_edk2-202405.bin"))
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
