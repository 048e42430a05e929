// Package volume lays out a writable volume, and computes one digest of its contents.
//
// A volume is a LUKS2 container (package luks2, authenticated) around dm-integrity in
// journal mode, so cryptsetup opens the volume with the key. For each sector dm-crypt
// makes a tag: HMAC-SHA256, with a secret key, over the sector's number and ciphertext.
// dm-integrity keeps the tags beside the data. Nobody without the secret key can make a
// tag for other contents, so a digest over all tags stands for all contents. The tags have
// 1/128 of the size of the data. docs/spec/volume.md describes the bytes.
package volume

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/bits"

	"github.com/rootvouch/rootvouch/luks2"
)

// Sizes in bytes.
const (
	// SectorSize is the unit of encryption, and of authentication.
	SectorSize = luks2.SectorSize
	// TagSize is that of HMAC-SHA256.
	TagSize = 32
	// Offset is where dm-integrity's part begins, behind the LUKS2 header.
	Offset = luks2.HeaderSize
	// SuperblockSize is that of dm-integrity's superblock (SB_SECTORS).
	SuperblockSize = 4096
	// RunSize is one run of tags: those of one area of data.
	RunSize = areaSize / SectorSize * TagSize

	// MinSize is the smallest volume that may be made.
	MinSize = 16 << 20
	// MaxSize is the largest.
	MaxSize = 1 << 50

	areaSize = 16 << 20 // data between two runs of tags: 32768 sectors of 512 bytes
	// maxJournal bounds the journal, which the kernel holds in memory too. A smaller
	// volume has a smaller one.
	maxJournal   = 16 << 20
	journalShare = 64
)

// The journal of dm-integrity (Linux 6.12, drivers/md/dm-integrity.c), which consists of
// sections: entries, and behind them the sectors that they are about.
const (
	legacySector    = 512
	entrySize       = 8 + 8*8 + TagSize                // struct journal_entry, with a commit ID for each 512 bytes
	entriesInSector = (legacySector - 8) / entrySize   // JOURNAL_SECTOR_DATA
	sectorsEntries  = 8                                // JOURNAL_BLOCK_SECTORS
	sectionEntries  = entriesInSector * sectorsEntries // 32
	sectionSectors  = sectionEntries*SectorSize/legacySector + sectorsEntries
	sectionSize     = sectionSectors * legacySector // 135168
	firstCommitID   = 0x1111111111111111            // of sequence 0, without journal_crypt
)

// Layout has the places of all parts of a volume of one size. LayoutOf makes it.
type Layout struct {
	Size     uint64 // bytes of the whole device
	DataSize uint64 // bytes that it offers: provided_data_sectors
	sections uint64 // of the journal
}

// LayoutOf lays out a device of so many bytes. What is behind the last 4096 of them
// is not used.
func LayoutOf(size uint64) (Layout, error) {
	if size < MinSize || size > MaxSize {
		return Layout{}, fmt.Errorf("size of the volume is %d bytes, want %d to %d", size, uint64(MinSize), uint64(MaxSize))
	}
	l := Layout{Size: size, sections: min(maxJournal, (size-Offset)/journalShare) / sectionSize}
	// The kernel looks for the largest number of sectors whose last one is on the
	// device, bit by bit (get_provided_data_sectors): so does this.
	for bit := bits.Len64(size/legacySector) - 1; bit >= 3; bit-- {
		if try := l.DataSize + legacySector<<bit; l.dataEnd(try) <= size/legacySector*legacySector {
			l.DataSize = try
		}
	}
	return l, nil
}

// dataEnd is where the last of so many bytes of data ends on the device.
func (l Layout) dataEnd(data uint64) uint64 {
	areas := (data + areaSize - 1) / areaSize
	return l.tagsAt(0) + areas*RunSize + data
}

// JournalSize is the size of the journal in bytes.
func (l Layout) JournalSize() uint64 { return l.sections * sectionSize }

// Runs is how many runs of tags there are.
func (l Layout) Runs() uint64 { return (l.DataSize + areaSize - 1) / areaSize }

// TagsSize is the size of all runs in bytes.
func (l Layout) TagsSize() uint64 { return l.Runs() * RunSize }

// tagsAt is where a run of tags begins on the device.
func (l Layout) tagsAt(run uint64) uint64 {
	return Offset + SuperblockSize + l.JournalSize() + run*(RunSize+areaSize)
}

// dataAt is where the data of a run of tags begins on the device.
func (l Layout) dataAt(run uint64) uint64 { return l.tagsAt(run) + RunSize }

// dataIn is how many bytes of data a run of tags is for.
func (l Layout) dataIn(run uint64) uint64 { return min(areaSize, l.DataSize-run*areaSize) }

// tagsIn is how many tags of a run are in use.
func (l Layout) tagsIn(run uint64) uint64 {
	return l.dataIn(run) / SectorSize
}

// Offsets of struct superblock, in bytes. Integers are little-endian.
const (
	sbMagic           = "integrt\x00"
	atVersion         = 0x08 // u8
	atLog2Interleave  = 0x09 // u8: 512-byte sectors of an area
	atTagSize         = 0x0a // u16
	atJournalSections = 0x0c // u32
	atProvidedSectors = 0x10 // u64
	atFlags           = 0x18 // u32
	atLog2Block       = 0x1c // u8: 512-byte sectors of a block
	atLog2Bitmap      = 0x1d // u8: blocks for each bit of the bitmap, which this mode has not

	sbVersion         = 4
	sbFixedPadding    = 8
	log2Interleave    = 15
	log2Block         = 3
	log2SectorsPerBit = 15
)

// Superblock is the only valid superblock of a volume of this size. The kernel writes the same
// bytes and never changes them.
func (l Layout) Superblock() []byte {
	b := make([]byte, SuperblockSize)
	copy(b, sbMagic)
	b[atVersion], b[atLog2Interleave], b[atLog2Block] = sbVersion, log2Interleave, log2Block
	binary.LittleEndian.PutUint16(b[atTagSize:], TagSize)
	binary.LittleEndian.PutUint32(b[atJournalSections:], uint32(l.sections))
	binary.LittleEndian.PutUint64(b[atProvidedSectors:], l.DataSize/legacySector)
	binary.LittleEndian.PutUint32(b[atFlags:], sbFixedPadding)
	b[atLog2Bitmap] = log2SectorsPerBit - log2Block
	return b
}

// CheckSuperblock refuses a superblock that is not, byte for byte, the one of this
// size: the kernel takes the layout from it, and writes and reads by it.
func (l Layout) CheckSuperblock(b []byte) error {
	want := l.Superblock()
	if bytes.Equal(b, want) {
		return nil
	}
	if len(b) == SuperblockSize && bytes.Equal(b[:atProvidedSectors], want[:atProvidedSectors]) && bytes.Equal(b[atFlags:], want[atFlags:]) {
		return fmt.Errorf("checking dm-integrity superblock: it is for %d bytes of data, want %d as on a device of %d bytes: was the volume truncated or grown?",
			binary.LittleEndian.Uint64(b[atProvidedSectors:])*legacySector, l.DataSize, l.Size)
	}
	return fmt.Errorf("checking dm-integrity superblock: it is not the one of a volume of %d bytes", l.Size)
}

// emptySection writes a section of the journal in which nothing is.
func emptySection(b []byte, section uint64) {
	clear(b)
	for sector := range uint64(sectionSectors) {
		binary.LittleEndian.PutUint64(b[sector*legacySector+legacySector-8:], firstCommitID^(section<<32^sector))
	}
	for entry := range sectionEntries {
		at := entry%sectorsEntries*legacySector + entry/sectorsEntries*entrySize
		binary.LittleEndian.PutUint32(b[at+4:], 0xffffffff) // unused
	}
}
