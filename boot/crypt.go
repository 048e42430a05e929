package boot

import (
	"context"
	"fmt"

	"github.com/rootvouch/rootvouch/dm"
	"github.com/rootvouch/rootvouch/kms/keyapi"
	"github.com/rootvouch/rootvouch/luks2"
	"github.com/rootvouch/rootvouch/pins"
)

// Names of the device-mapper devices, as the booted system sees them.
const (
	cryptName  = "rootvouch-crypt"
	verityName = "rootvouch-root"
)

// openCrypt unlocks the keyslot and makes the decrypted device. The volume key
// reaches the kernel by a keyring that only this thread sees; what is left after
// it is dm-crypt's own copy.
func (m *machine) openCrypt(context.Context) (string, error) {
	var err error
	if m.control, err = dm.Open(); err != nil {
		m.release.Wipe()
		return "", err
	}
	table := cryptTable(m.disk, m.container.UUID, m.config.Disk.Verity)
	err = unlock(m.container, m.release, func(volumeKey []byte) error {
		return dm.WithLogonKey(table.Key, volumeKey, func() (err error) {
			m.crypt, err = m.control.Create(cryptName, table.Target())
			return err
		})
	})
	if err != nil {
		return "", fmt.Errorf("opening %s: %w", m.disk.name, err)
	}
	return fmt.Sprintf("%s, %d-bit key, %d-byte sectors, %d MiB", table.Cipher, table.KeySize*8, table.SectorSize, table.Size>>20), nil
}

// unlock opens the keyslot with the released key and hands the volume key to
// use. Both keys are wiped when it returns, whatever it returns.
func unlock(c *luks2.Container, release *keyapi.Released, use func(volumeKey []byte) error) error {
	defer release.Wipe()
	volumeKey, err := c.VolumeKey(release.Key[:])
	if err != nil {
		return err
	}
	defer clear(volumeKey)
	return use(volumeKey)
}

// cryptTable builds dm-crypt's table from the measured pins and the profile that
// luks2.Parse accepts; nothing else of the header goes into it.
func cryptTable(d *disk, uuid pins.UUID, v pins.Verity) dm.Crypt {
	return dm.Crypt{
		Device:     d.number,
		Cipher:     luks2.Cipher,
		Key:        "rootvouch:" + uuid.String(),
		KeySize:    luks2.VolumeKeySize,
		Offset:     v.PayloadOffset,
		Size:       v.PayloadSize,
		SectorSize: luks2.SectorSize,
	}
}
