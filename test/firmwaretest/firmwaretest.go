// Package firmwaretest builds small firmware images for tests, laid out as
// OVMF's are: metadata, then the table that points to it, then 32 bytes.
//
// AmdSev, OVMF and SVSM describe the same memory as the builds of those names in
// edk2-stable202405 and COCONUT-SVSM. So a digest that was published for such a
// build is also valid for the image here, if the published digest of the firmware's
// contents replaces the contents.
package firmwaretest

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"slices"
	"strconv"
)

// PageSize is the unit of an image in bytes.
const PageSize = 4096

// GUIDs of table entries, in the table's byte order (edk2-stable202405,
// OvmfPkg/ResetVector/Ia16/ResetVectorVtf0.asm; COCONUT-SVSM, stage1).
const (
	Footer   = "de82b596b21ff745baeaa366c55a082d"
	Reset    = "de71f7007e1acb4f890e68c77e2fb44e"
	Hashes   = "1f3755723b3a044b927b1da6efa8d454"
	Metadata = "666588dc4a989847a75e5585a7bf67cc"
	Entry    = "12a689a797054b4ca49fcbb1fe9d1ddd"
)

// A TableEntry is one entry of the table.
type TableEntry struct {
	GUID string
	Data []byte
}

// A Section is one range of the metadata; Kind is the number in the file.
type Section struct{ GPA, Size, Kind uint32 }

// Image describes the image that a test wants.
type Image struct {
	Pages    int
	Entries  []TableEntry
	Sections []Section
	// Seed fills the rest of the image. Without a seed the rest is zero.
	Seed string
	// If set, the next three fields damage the image.
	Metadata func(b []byte) []byte       // changes the metadata
	Table    func(b []byte)              // changes the table
	Pointer  func(fromEnd uint32) uint32 // changes the distance of the metadata from the end
}

// U32 returns the little-endian form of values.
func U32(values ...uint32) []byte {
	var b []byte
	for _, v := range values {
		b = binary.LittleEndian.AppendUint32(b, v)
	}
	return b
}

// memory returns the sections that all builds of edk2-stable202405 describe.
func memory() []Section {
	return []Section{{0x800000, 0x9000, 1}, {0x80a000, 0x3000, 1}, {0x80d000, 0x1000, 2}, {0x80e000, 0x1000, 3}, {0x80f000, 0x1000, 4}}
}

// AmdSev returns a firmware that checks kernel, initramfs and command line.
func AmdSev() Image {
	return Image{
		Pages: 1, Seed: "AmdSev",
		Entries:  []TableEntry{{Hashes, U32(0x810c00, 0x400)}, {Reset, U32(0x80b004)}},
		Sections: append(memory(), Section{0x810000, 0x1000, 0x10}, Section{0x811000, 0xf000, 1}),
	}
}

// OVMF returns a firmware that cannot check a kernel.
func OVMF() Image {
	return Image{
		Pages: 2, Seed: "OvmfX64",
		Entries:  []TableEntry{{Hashes, U32(0, 0)}, {Reset, U32(0x80b004)}},
		Sections: append(memory(), Section{0x810000, 0x10000, 1}),
	}
}

// SVSM returns an SVSM, a program that runs below a firmware.
func SVSM() Image {
	return Image{
		Pages: 16, Seed: "SVSM",
		Entries:  []TableEntry{{Entry, U32(0x4000)}, {Reset, U32(0x80b004)}},
		Sections: []Section{{0x1000, 0x7000, 1}, {0xd000, 0x1000, 2}, {0xe000, 0x1000, 3}},
	}
}

// Bytes returns the image.
func (f Image) Bytes() []byte {
	metadata := append([]byte("ASEV"), U32(uint32(16+12*len(f.Sections)), 1, uint32(len(f.Sections)))...)
	for _, s := range f.Sections {
		metadata = append(metadata, U32(s.GPA, s.Size, s.Kind)...)
	}
	if f.Metadata != nil {
		metadata = f.Metadata(metadata)
	}
	var table []byte
	for _, e := range append([]TableEntry{{Metadata, U32(0)}}, f.Entries...) {
		table = append(table, e.Data...)
		table = binary.LittleEndian.AppendUint16(table, uint16(len(e.Data)+18))
		table = append(table, guid(e.GUID)...)
	}
	table = binary.LittleEndian.AppendUint16(table, uint16(len(table)+18))
	table = append(table, guid(Footer)...)
	fromEnd := uint32(len(metadata) + len(table) + 32)
	if f.Pointer != nil {
		fromEnd = f.Pointer(fromEnd)
	}
	binary.LittleEndian.PutUint32(table, fromEnd)
	if f.Table != nil {
		f.Table(table)
	}
	image := f.filling()
	copy(image[len(image)-32-len(table)-len(metadata):], slices.Concat(metadata, table))
	return image
}

// filling returns the rest of the image: for each page, SHA-256 over the seed, a
// colon and a decimal counter.
func (f Image) filling() []byte {
	image := make([]byte, f.Pages*PageSize)
	if f.Seed == "" {
		return image
	}
	for at := 0; at < len(image); at += sha256.Size {
		sum := sha256.Sum256([]byte(f.Seed + ":" + strconv.Itoa(at/sha256.Size)))
		copy(image[at:], sum[:])
	}
	return image
}

func guid(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic("firmwaretest: internal error: " + err.Error())
	}
	return b
}
