// Package idblock makes and checks ID blocks. A guest owner signs an ID block to fix
// the launch digest of a guest and to give the guest an identity.
//
// At the end of the launch, the launcher hands the ID block and the ID authentication
// information to the AMD-SP. The AMD-SP refuses a guest whose launch digest or policy
// differs from the block's. It puts the digests of the signing keys into ID_KEY_DIGEST
// and AUTHOR_KEY_DIGEST of every report, with the block's FAMILY_ID, IMAGE_ID and
// GUEST_SVN.
//
// Formats are those of 56860 (SEV Secure Nested Paging Firmware ABI
// Specification, revision 1.58): section 8.18, SNP_LAUNCH_FINISH, and chapter
// 10, digital signatures. Package launch says how that was checked.
package idblock

import (
	"encoding/binary"
	"fmt"

	"github.com/rootvouch/rootvouch/snp"
)

// BlockSize is the size of an ID block in bytes (56860, section 8.18,
// "Structure of the ID Block").
//
//	0x00 48 LD, the launch digest
//	0x30 16 FAMILY_ID
//	0x40 16 IMAGE_ID
//	0x50  4 VERSION, 1
//	0x54  4 GUEST_SVN
//	0x58  8 POLICY
const BlockSize = 0x60

const blockVersion = 1

// Block is an ID block.
type Block struct {
	LaunchDigest snp.Measurement // of the guest
	FamilyID     snp.GuestID     // the owner's, without meaning to the AMD-SP
	ImageID      snp.GuestID     // the owner's, without meaning to the AMD-SP
	GuestSVN     uint32          // security version number of the guest
	Policy       snp.Policy      // of the guest; 0x30000 is QEMU's default
}

// Check refuses a block that no launch can satisfy.
func (b Block) Check() error {
	if b.LaunchDigest == (snp.Measurement{}) {
		return fmt.Errorf("checking ID block: LD is all zero")
	}
	if err := b.Policy.Check(); err != nil {
		return fmt.Errorf("checking ID block: %w", err)
	}
	return nil
}

// Marshal returns the block in its BlockSize bytes.
func (b Block) Marshal() []byte {
	out := make([]byte, 0, BlockSize)
	out = append(out, b.LaunchDigest[:]...)
	out = append(out, b.FamilyID[:]...)
	out = append(out, b.ImageID[:]...)
	out = binary.LittleEndian.AppendUint32(out, blockVersion)
	out = binary.LittleEndian.AppendUint32(out, b.GuestSVN)
	return binary.LittleEndian.AppendUint64(out, uint64(b.Policy))
}

// ParseBlock reads an ID block of exactly BlockSize bytes.
func ParseBlock(data []byte) (Block, error) {
	if len(data) != BlockSize {
		return Block{}, fmt.Errorf("parsing ID block: got %d bytes, want %d", len(data), BlockSize)
	}
	if version := binary.LittleEndian.Uint32(data[0x50:]); version != blockVersion {
		return Block{}, fmt.Errorf("parsing ID block: VERSION is %d, want %d", version, blockVersion)
	}
	b := Block{
		LaunchDigest: snp.Measurement(data[0x00:0x30]),
		FamilyID:     snp.GuestID(data[0x30:0x40]),
		ImageID:      snp.GuestID(data[0x40:0x50]),
		GuestSVN:     binary.LittleEndian.Uint32(data[0x54:]),
		Policy:       snp.Policy(binary.LittleEndian.Uint64(data[0x58:])),
	}
	return b, b.Check()
}
