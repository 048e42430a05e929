package launch

import (
	"crypto/sha512"
	"encoding/binary"

	"github.com/rootvouch/rootvouch/snp/launch/internal/pagehash"
)

// pageType is PAGE_TYPE of SNP_LAUNCH_UPDATE (56860, section 8.17, table 68,
// "Encodings for the PAGE_TYPE Field").
type pageType uint8

const (
	pageNormal     pageType = 0x01
	pageVMSA       pageType = 0x02
	pageZero       pageType = 0x03
	pageUnmeasured pageType = 0x04
	pageSecrets    pageType = 0x05
	pageCPUID      pageType = 0x06
)

// vmsaGPA is the guest physical address under which VMSAs are measured: the
// largest page address of 48 bits (KVM sev.c, INITIAL_VMSA_GPA).
const vmsaGPA = 0xfffffffff000

// pageInfoSize is the size in bytes of PAGE_INFO (56860, section 8.17, table 70,
// "Layout of the PAGE_INFO Structure"), whose SHA-384 is the next launch digest:
//
//	0x00 48 DIGEST_CUR, the launch digest so far
//	0x30 48 CONTENTS, SHA-384 of the page, zero unless NORMAL or VMSA
//	0x60  2 LENGTH, 0x70
//	0x62  1 PAGE_TYPE
//	0x63  1 IMI_PAGE, bit 0; no launcher here makes such pages
//	0x64  3 VMPL3_PERMS, VMPL2_PERMS, VMPL1_PERMS; no launcher here sets them
//	0x67  1 reserved
//	0x68  8 GPA
const pageInfoSize = 0x70

// chain is an SNP launch digest so far. It starts at zero.
type chain [sha512.Size384]byte

// extend measures one page.
func (c *chain) extend(t pageType, gpa uint64, contents *[sha512.Size384]byte) {
	var info [pageInfoSize]byte
	copy(info[:0x30], c[:])
	copy(info[0x30:0x60], contents[:])
	binary.LittleEndian.PutUint16(info[0x60:], pageInfoSize)
	info[0x62] = byte(t)
	binary.LittleEndian.PutUint64(info[0x68:], gpa)
	*c = sha512.Sum384(info[:])
}

// extendEmpty measures size bytes at gpa, of a type whose contents do not count.
func (c *chain) extendEmpty(t pageType, gpa, size uint64) {
	var none [sha512.Size384]byte
	for end := gpa + size; gpa < end; gpa += PageSize {
		c.extend(t, gpa, &none)
	}
}

// extendImage measures a firmware image that starts at gpa. Its pages are hashed
// side by side; the chain over their digests is short work.
func (c *chain) extendImage(gpa uint64, image []byte) {
	for i, sum := range pagehash.Sums(image) {
		c.extend(pageNormal, gpa+uint64(i)*PageSize, &sum)
	}
}
