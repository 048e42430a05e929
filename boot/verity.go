package boot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/rootvouch/rootvouch/boot/bootconfig"
	"github.com/rootvouch/rootvouch/dm"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/verity"
)

// openVerity makes the checked device from the measured pins alone. The
// superblock on the disk gives nothing to the table; one that differs from the
// pins is refused all the same, because somebody changed something. What it holds
// instead is not said: those are bytes that the volume key decrypted, the host
// chose where from, and the console is the host's.
func (m *machine) openVerity(context.Context) (string, error) {
	v := m.config.Disk.Verity
	if err := checkSuperblock(m.crypt.Path(), v); err != nil {
		return "", err
	}
	choice := dm.ReadError // so that verify can say which block it was
	if m.config.Verification == bootconfig.VerificationLazy {
		choice = dm.Panic
	}
	var err error
	if m.verity, err = m.control.Create(verityName, verityTable(m.crypt.Number(), v, choice).Target()); err != nil {
		return "", err
	}
	return fmt.Sprintf("root hash %s, %d blocks", v.RootHash, v.DataBlocks), nil
}

// errSuperblock is all that is said about a superblock that is not the pinned one.
var errSuperblock = errors.New("checking dm-verity superblock: it differs from the pins")

// checkSuperblock compares the superblock on the device at path with the profile
// and the pins. Its UUID is not pinned, and nothing is done with it. An error
// matches errSuperblock, or is one of reading.
func checkSuperblock(path string, v pins.Verity) error {
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("reading dm-verity superblock: %w", err)
	}
	defer file.Close()
	b := make([]byte, verity.SuperblockSize)
	if _, err := file.ReadAt(b, int64(v.HashOffset)); err != nil {
		return fmt.Errorf("reading dm-verity superblock: %w", err)
	}
	s, err := verity.ParseSuperblock(b)
	if err != nil || s.DataBlocks != v.DataBlocks || !bytes.Equal(s.Salt, v.Salt) {
		return errSuperblock
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
