package launch

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"strings"
)

// The kernel-hashes table (QEMU target/i386/sev.c, SevHashTable; edk2
// OvmfPkg/AmdSev/BlobVerifierLibSevHashes): a header of GUID and size, then
// three entries of GUID, size and SHA-256 each, then zeros up to 16 bytes.
const (
	guidHashesHeader = "9438d606-4f22-4cc9-b479-a793d411fd21"
	guidCommandLine  = "97d02dd8-bd20-4c94-aa78-e7714d36ab2a"
	guidInitrd       = "44baf731-3a2f-4bd7-9af1-41e29169781d"
	guidKernel       = "4de79437-abd2-427f-b835-d5b172d2045b"

	hashesEntrySize = entryHeader + sha256.Size
	hashesLength    = entryHeader + 3*hashesEntrySize
	hashesTableSize = (hashesLength + 15) &^ 15 // 176 bytes
)

// Hashes are the SHA-256 digests that the firmware compares with the kernel,
// initramfs and command line it is given.
type Hashes struct {
	Kernel      [sha256.Size]byte // of the kernel file
	Initrd      [sha256.Size]byte // of the initramfs file, or of no bytes without one
	CommandLine [sha256.Size]byte // of the command line with one NUL at its end
}

// HashKernel hashes kernel, initrd and command line, and reads each once. A nil
// initrd means no initramfs. Its hash is that of an empty one.
func HashKernel(kernel, initrd io.Reader, commandLine string) (Hashes, error) {
	var h Hashes
	var err error
	if h.CommandLine, err = HashCommandLine(commandLine); err != nil {
		return Hashes{}, err
	}
	if h.Kernel, err = HashBlob(kernel); err != nil {
		return Hashes{}, fmt.Errorf("reading kernel: %w", err)
	}
	if initrd == nil {
		initrd = strings.NewReader("")
	}
	if h.Initrd, err = HashBlob(initrd); err != nil {
		return Hashes{}, fmt.Errorf("reading initramfs: %w", err)
	}
	return h, nil
}

// HashCommandLine hashes a command line as QEMU does: with a NUL at its end,
// and an absent one as an empty one.
func HashCommandLine(s string) ([sha256.Size]byte, error) {
	if i := strings.IndexByte(s, 0); i >= 0 {
		return [sha256.Size]byte{}, fmt.Errorf("hashing command line: NUL at byte %d", i)
	}
	return sha256.Sum256(append([]byte(s), 0)), nil
}

// HashBlob returns the SHA-256 of r's bytes, in the form of Hashes.
func HashBlob(r io.Reader) (sum [sha256.Size]byte, err error) {
	h := sha256.New()
	// The reader's own WriteTo would choose a small buffer for files.
	if _, err := io.CopyBuffer(struct{ io.Writer }{h}, struct{ io.Reader }{r}, make([]byte, 256<<10)); err != nil {
		return sum, err
	}
	return [sha256.Size]byte(h.Sum(nil)), nil
}

// check refuses a zero digest. No file is known to have it.
func (h Hashes) check() error {
	zero := [sha256.Size]byte{}
	switch zero {
	case h.Kernel:
		return fmt.Errorf("building kernel-hashes table: the kernel's digest is not set")
	case h.Initrd:
		return fmt.Errorf("building kernel-hashes table: the initramfs's digest is not set (without one it is SHA-256 of nothing)")
	case h.CommandLine:
		return fmt.Errorf("building kernel-hashes table: the command line's digest is not set")
	}
	return nil
}

// table returns the padded table, hashesTableSize bytes.
func (h Hashes) table() []byte {
	t := make([]byte, 0, hashesTableSize)
	entry := func(guid string, size int, data []byte) {
		id := guidBytes(guid)
		t = append(t, id[:]...)
		t = binary.LittleEndian.AppendUint16(t, uint16(size))
		t = append(t, data...)
	}
	entry(guidHashesHeader, hashesLength, nil)
	entry(guidCommandLine, hashesEntrySize, h.CommandLine[:])
	entry(guidInitrd, hashesEntrySize, h.Initrd[:])
	entry(guidKernel, hashesEntrySize, h.Kernel[:])
	return t[:hashesTableSize]
}

// page returns the page that holds the table at offset.
func (h Hashes) page(offset int) *[PageSize]byte {
	page := new([PageSize]byte)
	copy(page[offset:], h.table())
	return page
}

// HashesPage returns the page with the kernel-hashes table as an SNP launch places
// it in guest memory, PageSize bytes, and its guest physical address. If the
// firmware cannot check a kernel, the error is a *FormatError.
func HashesPage(f *Firmware, h Hashes) (page []byte, gpa uint64, err error) {
	if err := h.check(); err != nil {
		return nil, 0, err
	}
	s, offset, err := f.hashesPage()
	if err != nil {
		return nil, 0, err
	}
	return h.page(offset)[:], uint64(s.GPA), nil
}
