package image

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/rootvouch/rootvouch/internal/filekind"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/verity"
)

// Places and magics of the superblocks (Linux: fs/erofs/erofs_fs.h,
// fs/squashfs/squashfs_fs.h, fs/ext4/ext4.h), in bytes.
const (
	erofsAt       = 1024
	erofsMagic    = "\xe2\xe1\xf5\xe0"
	squashfsMagic = "hsqs"
	ext4At        = 1024
	ext4Magic     = "\x53\xef"
)

// finished accepts a filesystem image unchanged, if its superblock says that the kernel can
// mount it from a read-only device with 4096-byte sectors.
func finished(r io.ReaderAt, size int64, k filekind.Kind, head []byte) (Source, error) {
	s := Source{finished: r, size: size}
	var used uint64
	var err error
	switch k {
	case filekind.EROFS:
		s.filesystem = pins.EROFS
		used, err = checkEROFS(head)
	case filekind.Squashfs:
		s.filesystem = pins.SquashFS
		used, err = checkSquashFS(head)
	case filekind.Ext:
		s.filesystem = pins.Ext4
		used, err = checkExt4(head)
	}
	if err != nil {
		return Source{}, fmt.Errorf("%s: %w", s.filesystem, err)
	}
	if used == 0 || used > uint64(size) {
		return Source{}, fmt.Errorf("%s: the superblock says %d bytes, the file has %d", s.filesystem, used, size)
	}
	return s, nil
}

var errShortSuperblock = errors.New("the file ends within the superblock")

// checkEROFS returns the bytes that the filesystem says it has.
func checkEROFS(head []byte) (uint64, error) {
	if len(head) < erofsAt+128 {
		return 0, errShortSuperblock
	}
	sb := head[erofsAt:]
	if bits := sb[0x0c]; bits != 12 {
		return 0, fmt.Errorf("blocks of 2^%d bytes, want %d", bits, verity.BlockSize)
	}
	const deviceTable = 0x8 // EROFS_FEATURE_INCOMPAT_DEVICE_TABLE
	if incompat := binary.LittleEndian.Uint32(sb[0x50:]); incompat&deviceTable != 0 {
		return 0, errors.New("its data is on other devices")
	}
	return uint64(binary.LittleEndian.Uint32(sb[0x24:])) * verity.BlockSize, nil
}

func checkSquashFS(head []byte) (uint64, error) {
	if len(head) < 96 {
		return 0, errShortSuperblock
	}
	major, minor := binary.LittleEndian.Uint16(head[28:]), binary.LittleEndian.Uint16(head[30:])
	if major != 4 || minor != 0 {
		return 0, fmt.Errorf("version %d.%d, want 4.0", major, minor)
	}
	return binary.LittleEndian.Uint64(head[40:]), nil
}

func checkExt4(head []byte) (uint64, error) {
	if len(head) < ext4At+1024 {
		return 0, errShortSuperblock
	}
	sb := head[ext4At:]
	if log := binary.LittleEndian.Uint32(sb[0x18:]); log != 2 {
		if log > 6 {
			return 0, fmt.Errorf("s_log_block_size is %d", log)
		}
		return 0, fmt.Errorf("blocks of %d bytes, want %d", 1024<<log, verity.BlockSize)
	}
	const (
		recover    = 0x4  // EXT4_FEATURE_INCOMPAT_RECOVER
		journalDev = 0x8  // EXT4_FEATURE_INCOMPAT_JOURNAL_DEV
		has64bit   = 0x80 // EXT4_FEATURE_INCOMPAT_64BIT
		valid      = 0x1  // EXT4_VALID_FS
		hasErrors  = 0x2  // EXT4_ERROR_FS
	)
	incompat := binary.LittleEndian.Uint32(sb[0x60:])
	state := binary.LittleEndian.Uint16(sb[0x3a:])
	switch {
	case incompat&recover != 0:
		return 0, errors.New("the journal needs recovery, which a read-only disk cannot have: mount it once, or run e2fsck")
	case incompat&journalDev != 0:
		return 0, errors.New("it is a journal, not a filesystem")
	case state&valid == 0 || state&hasErrors != 0:
		return 0, fmt.Errorf("s_state is %#x, want clean and without errors: run e2fsck", state)
	}
	blocks := uint64(binary.LittleEndian.Uint32(sb[0x04:]))
	if incompat&has64bit != 0 {
		blocks |= uint64(binary.LittleEndian.Uint32(sb[0x150:])) << 32
	}
	if blocks > 1<<40 {
		return 0, fmt.Errorf("%d blocks", blocks)
	}
	return blocks * verity.BlockSize, nil
}
