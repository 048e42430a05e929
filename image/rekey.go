package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/rootvouch/rootvouch/internal/durable"
	"github.com/rootvouch/rootvouch/luks2"
	"github.com/rootvouch/rootvouch/pins"
)

// Rekey gives the disk at files.Disk a new keyslot for newKey and writes
// newKey and the new pins to files. Payload, root hash and disk UUID stay; the
// header pin changes.
//
// The volume key stays too: an attacker with the old key and a copy of the old
// header can still decrypt the data. Rekeying retires a key, it does not revoke it.
//
// Rekey replaces the header in place. Before that, it makes key and pins durable and
// keeps the old header in DISK.header-backup. It removes the backup after it has read
// the new header back. After a crash in between, copy the backup over the disk's
// first MiB to undo the rekeying. The disk then needs the old key, so files.Keep
// should name its file.
func Rekey(ctx context.Context, files Files, oldKey []byte, old pins.Pins, newKey [luks2.PassphraseSize]byte, random io.Reader) (p pins.Pins, err error) {
	defer clear(newKey[:])
	f, err := os.OpenFile(files.Disk, os.O_RDWR, 0)
	if err != nil {
		return pins.Pins{}, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return pins.Pins{}, err
	}
	if !info.Mode().IsRegular() { // a backup beside a device would not survive a crash
		return pins.Pins{}, fmt.Errorf("it is %v, want a regular file", info.Mode())
	}
	oldHeader := make([]byte, luks2.HeaderSize)
	d, err := OpenDisk(f, info.Size())
	if err != nil {
		return pins.Pins{}, err
	}
	if _, err := f.ReadAt(oldHeader, 0); err != nil {
		return pins.Pins{}, fmt.Errorf("reading LUKS2 header: %w", err)
	}
	if err := d.Check(old); err != nil {
		return pins.Pins{}, err
	}
	volumeKey, err := d.Container.VolumeKey(oldKey)
	if err != nil {
		return pins.Pins{}, err
	}
	defer clear(volumeKey)
	header, err := luks2.Build(luks2.Params{
		UUID: d.Container.UUID, SequenceID: d.Container.SequenceID + 1,
		VolumeKey: volumeKey, Passphrase: newKey[:], Random: random,
	})
	if err != nil {
		return pins.Pins{}, err
	}
	p = pins.New(old.Verity, pins.Header{DiskUUID: d.Container.UUID, HeaderSHA256: sha256.Sum256(header)}, old.Filesystem, old.Init)
	backup := files.Disk + ".header-backup"
	o := durable.Set{Replace: files.Force, Keep: append([]string{files.Disk, backup}, files.Keep...)}
	defer o.Abort()
	for _, output := range []struct {
		path string
		data []byte
		perm os.FileMode
	}{{files.Key, newKey[:], 0o600}, {files.Pins, p.Encode(), 0o644}} {
		if err := o.AddFile(output.path, output.data, output.perm); err != nil {
			return pins.Pins{}, err
		}
	}
	if err := ctx.Err(); err != nil {
		return pins.Pins{}, err
	}
	if err := durable.Create(backup, oldHeader, 0o600); errors.Is(err, os.ErrExist) {
		return pins.Pins{}, fmt.Errorf("%s is left from an interrupted rekey: copy it over the first MiB of the disk to undo the rekey, then remove it", backup)
	} else if err != nil {
		return pins.Pins{}, fmt.Errorf("keeping the old header: %w", err)
	}
	// The backup keeps other rekeys out, but one may have run before.
	if err := stillThere(f, oldHeader); err != nil {
		os.Remove(backup)
		return pins.Pins{}, err
	}
	if err := o.Commit(); err != nil {
		os.Remove(backup)
		return pins.Pins{}, err
	}
	if err := replaceHeader(f, header); err != nil {
		return pins.Pins{}, fmt.Errorf("replacing the header (the old one is in %s): %w", backup, err)
	}
	return p, os.Remove(backup)
}

// replaceHeader writes the header, waits for the disk and reads it back.
func replaceHeader(f *os.File, header []byte) error {
	if _, err := f.WriteAt(header, 0); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return stillThere(f, header)
}

// stillThere checks that the disk begins with header.
func stillThere(f *os.File, header []byte) error {
	got := make([]byte, len(header))
	if _, err := f.ReadAt(got, 0); err != nil {
		return err
	}
	if !bytes.Equal(got, header) {
		return errors.New("the header has changed meanwhile: is somebody else writing to the disk?")
	}
	return nil
}
