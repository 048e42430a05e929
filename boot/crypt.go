package boot

import (
	"context"
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

// openCrypt unlocks the keyslot and makes the decrypted device. The released key
// and the volume key are wiped when it returns, whatever it returns; what is
// left is dm-crypt's own copy in the kernel.
func (m *machine) openCrypt(context.Context) (string, error) {
	defer m.release.Wipe()
	control, err := dm.Open()
	if err != nil {
		return "", err
	}
	m.control = control
	volumeKey, err := m.container.VolumeKey(m.release.Key[:])
	if err != nil {
		return "", fmt.Errorf("unlocking keyslot of %s: %w", m.disk.name, err)
	}
	defer clear(volumeKey)
	table := cryptTable(m.disk, m.container.UUID, m.config.Disk.Verity, len(volumeKey))
	err = dm.WithLogonKey(table.Key, volumeKey, func() (err error) {
		m.crypt, err = control.Create(cryptName, table.Target())
		return err
	})
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s, %d-bit key, %d-byte sectors, %d MiB", table.Cipher, table.KeySize*8, table.SectorSize, table.Size>>20), nil
}

// cryptTable builds dm-crypt's table from the measured pins and the profile that
// luks2.Parse accepts; nothing else of the header goes into it.
func cryptTable(d *disk, uuid pins.UUID, v pins.Verity, keySize int) dm.Crypt {
	return dm.Crypt{
		Device:     d.number,
		Cipher:     luks2.Cipher,
		Key:        "rootvouch:" + uuid.String(),
		KeySize:    keySize,
		Offset:     v.PayloadOffset,
		Size:       v.PayloadSize,
		SectorSize: luks2.SectorSize,
	}
}
