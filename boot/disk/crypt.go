package disk

import (
	"fmt"

	"github.com/rootvouch/rootvouch/dm"
	"github.com/rootvouch/rootvouch/luks2"
	"github.com/rootvouch/rootvouch/pins"
)

// Names of the device-mapper devices, as the booted system sees them.
const (
	cryptName  = "rootvouch-crypt"
	verityName = "rootvouch-root"
)

// Decrypted is the decrypted payload of a disk. Its contents are not verified yet.
type Decrypted struct {
	control *dm.Control
	device  *dm.Device
	disk    string // name of the disk
	table   dm.Crypt
	pins    pins.Verity
}

func (d *Decrypted) String() string {
	return fmt.Sprintf("%s, %d-bit key, %d-byte sectors, %d MiB", d.table.Cipher, d.table.KeySize*8, d.table.SectorSize, d.table.Size>>20)
}

// Decrypt unlocks the keyslot with key and makes the decrypted device. The volume
// key reaches the kernel through a keyring that only this thread sees. When Decrypt
// returns, only dm-crypt's copy of the volume key exists. Decrypt always wipes key.
func (d *Disk) Decrypt(key []byte) (*Decrypted, error) {
	defer clear(key)
	control, err := dm.Open()
	if err != nil {
		return nil, err
	}
	out := &Decrypted{control: control, disk: d.name, table: cryptTable(d.number, d.container.UUID, d.pins), pins: d.pins}
	err = unlock(d.container, key, func(volumeKey []byte) error {
		return dm.WithLogonKey(out.table.Key, volumeKey, func() (err error) {
			out.device, err = control.Create(cryptName, out.table.Target())
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", d.name, err)
	}
	return out, nil
}

// unlock opens the keyslot with key and hands the volume key to use. It always wipes
// both keys before it returns.
func unlock(c *luks2.Container, key []byte, use func(volumeKey []byte) error) error {
	defer clear(key)
	volumeKey, err := c.VolumeKey(key)
	if err != nil {
		return err
	}
	defer clear(volumeKey)
	return use(volumeKey)
}

// cryptTable builds dm-crypt's table from the measured pins and the profile that
// luks2.Parse accepts. The table takes nothing else from the header.
func cryptTable(device string, uuid pins.UUID, v pins.Verity) dm.Crypt {
	return dm.Crypt{
		Device:     device,
		Cipher:     luks2.Cipher,
		Key:        "rootvouch:" + uuid.String(),
		KeySize:    luks2.VolumeKeySize,
		Offset:     v.PayloadOffset,
		Size:       v.PayloadSize,
		SectorSize: luks2.SectorSize,
	}
}
