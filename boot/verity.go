package boot

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"

	"github.com/rootvouch/rootvouch/bootconfig"
	"github.com/rootvouch/rootvouch/dm"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/verity"
)

// openVerity makes the checked device from the measured pins alone. The
// superblock on the disk gives nothing to the table; one that differs from the
// pins is refused all the same, because somebody changed something.
func (m *machine) openVerity(context.Context) (string, error) {
	v := m.config.Disk.Verity
	superblock, err := readSuperblock(m.crypt.Path(), v.HashOffset)
	if err != nil {
		return "", err
	}
	if err := checkSuperblock(superblock, v); err != nil {
		return "", err
	}
	choice := dm.ReadError // so that verify can say which block it was
	if m.config.Verification == bootconfig.VerificationLazy {
		choice = dm.Panic
	}
	m.verity, err = m.control.Create(verityName, verityTable(m.crypt.Number(), v, choice).Target())
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("root hash %s, %d blocks", v.RootHash, v.DataBlocks), nil
}

func readSuperblock(path string, offset uint64) (verity.Superblock, error) {
	file, err := os.Open(path)
	if err != nil {
		return verity.Superblock{}, fmt.Errorf("reading dm-verity superblock: %w", err)
	}
	defer file.Close()
	b := make([]byte, verity.SuperblockSize)
	if _, err := io.ReadFull(io.NewSectionReader(file, int64(offset), int64(len(b))), b); err != nil {
		return verity.Superblock{}, fmt.Errorf("reading dm-verity superblock: %w", err)
	}
	return verity.ParseSuperblock(b)
}

// checkSuperblock compares what the profile leaves open.
func checkSuperblock(s verity.Superblock, v pins.Verity) error {
	if s.DataBlocks != v.DataBlocks {
		return fmt.Errorf("checking dm-verity superblock: data blocks are %d, want %d", s.DataBlocks, v.DataBlocks)
	}
	if !bytes.Equal(s.Salt, v.Salt) {
		return fmt.Errorf("checking dm-verity superblock: salt is %x, want %x", s.Salt, v.Salt)
	}
	return nil
}

// verityTable puts the tree one block behind the superblock's.
func verityTable(device string, v pins.Verity, choice dm.OnCorruption) dm.Verity {
	return dm.Verity{
		Device:       device,
		BlockSize:    pins.BlockSize,
		DataBlocks:   v.DataBlocks,
		TreeBlock:    v.HashOffset/pins.BlockSize + 1,
		RootHash:     v.RootHash[:],
		Salt:         v.Salt,
		OnCorruption: choice,
	}
}
