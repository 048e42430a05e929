package launch

import (
	"encoding/binary"
	"fmt"
)

// PageSize is the unit of measurement in bytes.
const PageSize = 4096

const (
	// fourGiB is the guest physical address at which a firmware image ends.
	fourGiB = 1 << 32
	// MaxImageSize bounds a firmware image in bytes. QEMU's default limit is 8 MiB
	// (pc_system_flash, max-fw-size); the SVSM images known are below 2 MiB.
	MaxImageSize = 64 << 20
	// maxSections bounds the SEV metadata; the images known have at most 7.
	maxSections = 64
	// maxMeasured bounds what sections declare together, in bytes. The images
	// known stay below 1 MiB.
	maxMeasured = 256 << 20
)

// FormatError says what is wrong with a firmware image, and where.
type FormatError struct {
	Offset  int // in bytes from the start of the image
	Problem string
}

func (e *FormatError) Error() string {
	return fmt.Sprintf("parsing firmware at offset %#x: %s", e.Offset, e.Problem)
}

func formatError(offset int, format string, args ...any) error {
	return &FormatError{Offset: offset, Problem: fmt.Sprintf(format, args...)}
}

// SectionType is the type of a section in a firmware's SEV metadata
// (edk2 OvmfPkg/ResetVector/X64/OvmfSevMetadata.asm).
type SectionType uint32

// The section types that launchers know.
const (
	SectionSecMem       SectionType = 0x1  // memory that the firmware uses before it can validate pages
	SectionSecrets      SectionType = 0x2  // the secrets page, one page
	SectionCPUID        SectionType = 0x3  // the CPUID page, one page
	SectionSVSMCAA      SectionType = 0x4  // the calling area of an SVSM
	SectionKernelHashes SectionType = 0x10 // the page with the kernel-hashes table, one page
)

func (t SectionType) String() string {
	switch t {
	case SectionSecMem:
		return "SNP_SEC_MEM"
	case SectionSecrets:
		return "SNP_SECRETS"
	case SectionCPUID:
		return "CPUID"
	case SectionSVSMCAA:
		return "SVSM_CAA"
	case SectionKernelHashes:
		return "SNP_KERNEL_HASHES"
	}
	return fmt.Sprintf("type %#x", uint32(t))
}

// Section is one descriptor of a firmware's SEV metadata.
type Section struct {
	GPA    uint32 // guest physical address; in an SVSM image as well
	Size   uint32 // in bytes, a multiple of PageSize
	Type   SectionType
	Offset int // of the descriptor, in bytes from the start of the image
}

// Firmware is a parsed firmware image: OVMF, or an SVSM in the same form. It
// keeps the image that it was parsed from, which must not change.
type Firmware struct {
	image    []byte
	footer   int // offset of the GUIDed table's last entry, found or not
	hasTable bool
	sections []Section // in the order in which they are measured
	hasMeta  bool

	resetEIP    field // 00f771de…: where application processors start
	hashesTable field // 7255371f…: the kernel-hashes table
	hashesSize  uint32
	svsmEntry   field // a789a612…: where an SVSM starts
}

// field is a 32-bit value of the GUIDed table.
type field struct {
	value  uint32
	offset int // of the value in the image
	ok     bool
}

// ParseFirmware parses the GUIDed table and the SEV metadata of image. It accepts
// an image without a table or without metadata, because a plain SEV guest needs
// neither. A computation that needs one of them returns a *FormatError. If the
// image has a malformed part, ParseFirmware returns a *FormatError.
func ParseFirmware(image []byte) (*Firmware, error) {
	switch {
	case len(image) == 0:
		return nil, formatError(0, "image is empty")
	case len(image) > MaxImageSize:
		return nil, formatError(MaxImageSize, "image has more than %d bytes", MaxImageSize)
	case len(image)%PageSize != 0:
		return nil, formatError(len(image), "image has %d bytes, want a multiple of %d", len(image), PageSize)
	}
	f := &Firmware{image: image}
	start, metadata, err := f.parseTable()
	if err != nil {
		return nil, err
	}
	if !metadata.ok {
		return f, nil
	}
	if err := f.parseMetadata(start, metadata); err != nil {
		return nil, err
	}
	return f, nil
}

// Len returns the size of the image in bytes.
func (f *Firmware) Len() int { return len(f.image) }

// Sections returns the SEV metadata in the order in which it is measured.
func (f *Firmware) Sections() []Section { return append([]Section(nil), f.sections...) }

// ResetEIP returns the address at which application processors start in SEV-ES
// and SNP guests.
func (f *Firmware) ResetEIP() (uint32, error) {
	if err := f.require(f.resetEIP, "SEV-ES reset block"); err != nil {
		return 0, err
	}
	if f.resetEIP.value == 0 {
		return 0, formatError(f.resetEIP.offset, "SEV-ES reset address is 0")
	}
	return f.resetEIP.value, nil
}

// require returns an error for a missing entry. The error names the place where the
// entry should be.
func (f *Firmware) require(entry field, name string) error {
	if entry.ok {
		return nil
	}
	if !f.hasTable {
		return formatError(f.footer, "no GUIDed table ends here, so there is no %s", name)
	}
	return formatError(f.footer, "GUIDed table has no %s", name)
}

// metadata returns the sections, or an error if the image has no SEV metadata.
func (f *Firmware) metadata() ([]Section, error) {
	if f.hasMeta {
		return f.sections, nil
	}
	return nil, f.require(field{}, "SEV metadata")
}

// section finds the one section of type t; ok is false if there is none.
func (f *Firmware) section(t SectionType) (s Section, ok bool) {
	for _, s := range f.sections {
		if s.Type == t {
			return s, true
		}
	}
	return Section{}, false
}

// hashesOffset returns the guest physical address of the kernel-hashes table.
func (f *Firmware) hashesBase() (uint32, error) {
	if err := f.require(f.hashesTable, "kernel-hashes entry (this firmware cannot check a kernel)"); err != nil {
		return 0, err
	}
	base, at := f.hashesTable.value, f.hashesTable.offset
	if base == 0 {
		return 0, formatError(at, "kernel-hashes address is 0: this firmware cannot check a kernel")
	}
	if f.hashesSize < hashesTableSize {
		return 0, formatError(at+4, "kernel-hashes area has %d bytes, want at least %d", f.hashesSize, hashesTableSize)
	}
	return base, nil
}

// hashesPage returns the section that holds the kernel-hashes table of an SNP
// guest, and the table's offset in its page.
func (f *Firmware) hashesPage() (s Section, offset int, err error) {
	base, err := f.hashesBase()
	if err != nil {
		return Section{}, 0, err
	}
	if _, err := f.metadata(); err != nil {
		return Section{}, 0, err
	}
	s, ok := f.section(SectionKernelHashes)
	if !ok {
		return Section{}, 0, formatError(f.footer, "SEV metadata has no %v section: this firmware cannot check a kernel", SectionKernelHashes)
	}
	if base < s.GPA || uint64(base)+hashesTableSize > uint64(s.GPA)+PageSize {
		return Section{}, 0, formatError(f.hashesTable.offset, "kernel-hashes table at %#x is not inside its page at %#x", base, s.GPA)
	}
	return s, int(base - s.GPA), nil
}

// launchOffset returns the offset of the first instruction of an SVSM image.
func (f *Firmware) launchOffset() (uint32, error) {
	if err := f.require(f.svsmEntry, "SVSM entry"); err != nil {
		return 0, err
	}
	if int64(f.svsmEntry.value) >= int64(len(f.image)) {
		return 0, formatError(f.svsmEntry.offset, "SVSM starts at %#x, behind the image's %#x bytes", f.svsmEntry.value, len(f.image))
	}
	return f.svsmEntry.value, nil
}

func le32(b []byte) uint32 { return binary.LittleEndian.Uint32(b) }
