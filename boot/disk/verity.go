package disk

import (
	"bytes"
	"errors"
	"fmt"
	"os"

	"github.com/rootvouch/rootvouch/dm"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/verity"
)

// Checked is the device through which dm-verity checks every block that is read.
type Checked struct {
	device *dm.Device
	crypt  string // number of the device below
	disk   string // name of the disk
	pins   pins.Verity
}

// Path returns the device's path.
func (c *Checked) Path() string { return c.device.Path() }

func (c *Checked) String() string {
	return fmt.Sprintf("root hash %s, %d blocks", c.pins.RootHash, c.pins.DataBlocks)
}

// Disk returns the name of the disk, such as "vda".
func (c *Checked) Disk() string { return c.disk }

// Check makes the checked device from the measured pins only. A lazy device panics on
// a corrupt block from the start; otherwise ReadAll turns that on.
//
// The table takes nothing from the superblock on the disk. Check still refuses a
// superblock that differs from the pins, because a difference shows a changed disk.
// The error does not show the superblock: its bytes were decrypted with the volume
// key, the host chose them, and the host reads the console.
func (d *Decrypted) Check(lazy bool) (*Checked, error) {
	if err := checkSuperblock(d.device.Path(), d.pins); err != nil {
		return nil, err
	}
	choice := dm.ReadError // so that ReadAll can say which block it was
	if lazy {
		choice = dm.Panic
	}
	c := &Checked{crypt: d.device.Number(), disk: d.disk, pins: d.pins}
	var err error
	if c.device, err = d.control.Create(verityName, verityTable(c.crypt, d.pins, choice).Target()); err != nil {
		return nil, err
	}
	return c, nil
}

// errSuperblock is the only error about a superblock that differs from the pins.
var errSuperblock = errors.New("checking dm-verity superblock: it differs from the pins")

// checkSuperblock compares the superblock on the device at path with the profile
// and the pins. The superblock's UUID is not pinned, and nothing uses it.
// checkSuperblock returns errSuperblock or an error of reading.
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

// verityTable places the hash tree in the block after the superblock.
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
