package launch

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
)

// The GUIDed table of OVMF grows down from 32 bytes below the end of the image
// (edk2 OvmfPkg/ResetVector/Ia16/ResetVectorVtf0.asm). Each entry is its data,
// then its whole size in 2 bytes, then its GUID in 16; the entry at the very
// end names the table, and its size is that of the table. The SVSM's entry is
// the COCONUT SVSM's (boot/defs/src/firmware.rs, SVSM_INFO_GUID); metadata is
// laid out by edk2 OvmfPkg/ResetVector/X64/OvmfSevMetadata.asm.
const (
	tableEnd         = 32
	entryHeader      = 2 + 16
	metadataHeader   = 16
	metadataSection  = 12
	metadataVersion  = 1
	metadataMagic    = "ASEV"
	guidTableFooter  = "96b582de-1fb2-45f7-baea-a366c55a082d"
	guidResetBlock   = "00f771de-1a7e-4fcb-890e-68c77e2fb44e"
	guidHashesTable  = "7255371f-3a3b-4b04-927b-1da6efa8d454"
	guidSEVMetadata  = "dc886566-984a-4798-a75e-5585a7bf67cc"
	guidSVSMEntry    = "a789a612-0597-4c4b-a49f-cbb1fe9d1ddd"
	guidTextLength   = 36
	maxTableEntries  = 64
	hashesTableEntry = 8
)

// parseTable walks the table from its end to its start. It returns the start of the
// table, and the entry that points to the SEV metadata.
func (f *Firmware) parseTable() (start int, metadata field, err error) {
	f.footer = len(f.image) - tableEnd - entryHeader
	if f.guidAt(f.footer+2) != guidTableFooter {
		return 0, field{}, nil
	}
	f.hasTable = true
	total := f.sizeAt(f.footer)
	if total < entryHeader || total-entryHeader > f.footer {
		return 0, field{}, formatError(f.footer, "table has %d bytes, want %d to %d", total, entryHeader, f.footer+entryHeader)
	}
	start = f.footer + entryHeader - total
	seen := map[string]int{} // :: GUID -> offset of the entry's end
	for end := f.footer; end > start; {
		header := end - entryHeader
		if header < start {
			return 0, field{}, formatError(start, "table has %d bytes left over, want none or at least %d", end-start, entryHeader)
		}
		size := f.sizeAt(header)
		if size < entryHeader || size > end-start {
			return 0, field{}, formatError(header, "table entry has %d bytes, want %d to %d", size, entryHeader, end-start)
		}
		guid := f.guidAt(header + 2)
		if other, twice := seen[guid]; twice {
			return 0, field{}, formatError(header, "table entry %s occurs twice, the other ends at offset %#x", guid, other)
		}
		if seen[guid] = end; len(seen) > maxTableEntries {
			return 0, field{}, formatError(header, "table has more than %d entries", maxTableEntries)
		}
		if err := f.tableEntry(guid, end-size, header, &metadata); err != nil {
			return 0, field{}, err
		}
		end -= size
	}
	return start, metadata, nil
}

// tableEntry keeps the entry whose data is image[data:header], if its GUID is
// known.
func (f *Firmware) tableEntry(guid string, data, header int, metadata *field) error {
	want := 4
	var to *field
	switch guid {
	case guidResetBlock:
		to = &f.resetEIP
	case guidSVSMEntry:
		to = &f.svsmEntry
	case guidSEVMetadata:
		to = metadata
	case guidHashesTable:
		to, want = &f.hashesTable, hashesTableEntry
	default:
		return nil // SEV secret block, TDX metadata and others, which are not measured
	}
	if header-data != want {
		return formatError(data, "table entry %s has %d bytes of data, want %d", guid, header-data, want)
	}
	*to = field{value: le32(f.image[data:]), offset: data, ok: true}
	if guid == guidHashesTable {
		f.hashesSize = le32(f.image[data+4:])
	}
	return nil
}

// parseMetadata reads the SEV metadata, which starts entry.value bytes before
// the end of the image and must end before the table that points to it.
func (f *Firmware) parseMetadata(tableStart int, entry field) error {
	if int64(entry.value) > int64(len(f.image)) {
		return formatError(entry.offset, "SEV metadata starts %#x bytes before the end, but the image has %#x", entry.value, len(f.image))
	}
	at := len(f.image) - int(entry.value)
	if at+metadataHeader > tableStart {
		return formatError(entry.offset, "SEV metadata at offset %#x runs into the table at %#x that points to it", at, tableStart)
	}
	if magic := f.image[at : at+4]; string(magic) != metadataMagic {
		return formatError(at, "SEV metadata signature is %q, want %q", magic, metadataMagic)
	}
	if version := le32(f.image[at+8:]); version != metadataVersion {
		return formatError(at+8, "SEV metadata version is %d, want %d", version, metadataVersion)
	}
	count := le32(f.image[at+12:])
	if count == 0 || count > maxSections {
		return formatError(at+12, "SEV metadata has %d sections, want 1 to %d", count, maxSections)
	}
	size, want := le32(f.image[at+4:]), metadataHeader+count*metadataSection
	if size != want {
		return formatError(at+4, "SEV metadata has %d bytes, want %d for %d sections", size, want, count)
	}
	if at+int(size) > tableStart {
		return formatError(at+4, "SEV metadata up to offset %#x runs into the table at %#x that points to it", at+int(size), tableStart)
	}
	for i := range int(count) {
		if err := f.addSection(at + metadataHeader + i*metadataSection); err != nil {
			return err
		}
	}
	f.hasMeta = true
	return nil
}

// addSection reads the descriptor at offset at.
func (f *Firmware) addSection(at int) error {
	d := f.image[at:]
	s := Section{GPA: le32(d), Size: le32(d[4:]), Type: SectionType(le32(d[8:])), Offset: at}
	if s.GPA%PageSize != 0 {
		return formatError(at, "%v section is at %#x, want a multiple of %#x", s.Type, s.GPA, PageSize)
	}
	if s.Size == 0 || s.Size%PageSize != 0 || uint64(s.GPA)+uint64(s.Size) > fourGiB {
		return formatError(at+4, "%v section at %#x has %#x bytes, want a multiple of %#x that ends below 4 GiB", s.Type, s.GPA, s.Size, PageSize)
	}
	single := s.Type == SectionSecrets || s.Type == SectionCPUID || s.Type == SectionKernelHashes
	if single && s.Size != PageSize {
		return formatError(at+4, "%v section has %#x bytes, want %#x", s.Type, s.Size, PageSize)
	}
	total := uint64(s.Size)
	for _, o := range f.sections {
		if single && o.Type == s.Type {
			return formatError(at+8, "%v section occurs twice, the other at offset %#x", s.Type, o.Offset)
		}
		if s.overlaps(uint64(o.GPA), uint64(o.Size)) {
			return formatError(at, "%v section %#x+%#x overlaps the %v section %#x+%#x at offset %#x",
				s.Type, s.GPA, s.Size, o.Type, o.GPA, o.Size, o.Offset)
		}
		total += uint64(o.Size)
	}
	if total > maxMeasured {
		return formatError(at+4, "sections have %#x bytes together, want at most %#x", total, maxMeasured)
	}
	f.sections = append(f.sections, s)
	return nil
}

// overlaps reports whether s shares a byte with the size bytes at gpa.
func (s Section) overlaps(gpa, size uint64) bool {
	return uint64(s.GPA) < gpa+size && gpa < uint64(s.GPA)+uint64(s.Size)
}

func (f *Firmware) sizeAt(offset int) int {
	return int(binary.LittleEndian.Uint16(f.image[offset:]))
}

func (f *Firmware) guidAt(offset int) string { return guidString([16]byte(f.image[offset:])) }

// guidString writes a GUID whose first three fields are little-endian (UEFI
// Specification 2.10, appendix A).
func guidString(b [16]byte) string {
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x", le32(b[0:]), binary.LittleEndian.Uint16(b[4:]),
		binary.LittleEndian.Uint16(b[6:]), b[8:10], b[10:16])
}

// guidBytes is the inverse of guidString, for the GUIDs of this package.
func guidBytes(s string) [16]byte {
	b, err := hex.DecodeString(strings.ReplaceAll(s, "-", ""))
	if err != nil || len(b) != 16 || len(s) != guidTextLength {
		panic(fmt.Sprintf("launch: internal error: GUID %q", s))
	}
	b[0], b[1], b[2], b[3] = b[3], b[2], b[1], b[0]
	b[4], b[5] = b[5], b[4]
	b[6], b[7] = b[7], b[6]
	return [16]byte(b)
}
