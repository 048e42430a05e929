// Package volumes opens the volumes that the booted system writes, and closes them.
//
// The host controls the disk of a volume, as it controls the root's disk. The package
// checks three things when it opens a volume:
//
//   - The header matches its pin.
//   - The superblock is the only one that the size of the volume allows.
//   - If the volume was closed, its contents match the digest that the key server has.
//
// The package formats a volume only if the key server calls the volume new, whatever is
// on the disk. On close, the digest of the contents goes to the key server. That digest
// counts until the next opening.
//
// Not protected: while a volume is open and the guest reads a sector again, the host can
// return an older state of the sector with the tag of that state (docs/THREATS.md).
package volumes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/rootvouch/rootvouch/boot/bootconfig"
	"github.com/rootvouch/rootvouch/boot/bootlog"
	"github.com/rootvouch/rootvouch/boot/disk"
	"github.com/rootvouch/rootvouch/boot/process"
	"github.com/rootvouch/rootvouch/dm"
	"github.com/rootvouch/rootvouch/internal/strictjson"
	"github.com/rootvouch/rootvouch/kms/keyapi"
	"github.com/rootvouch/rootvouch/luks2"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/volume"
)

// cipher is the cipher in dm-crypt's table. LUKS2 writes it as aes-xts-plain64 with
// hmac(sha256).
const cipher = "capi:authenc(hmac(sha256),xts(aes))-plain64"

// Found is a volume whose disk is attached and whose key was released.
type Found struct {
	Config   bootconfig.Volume
	Disk     disk.Raw
	Layout   volume.Layout
	Released *keyapi.Released // wiped by Open
}

// Find finds the disk of a released volume.
func Find(ctx context.Context, disks *disk.Finder, c bootconfig.Volume, released *keyapi.Released) (*Found, error) {
	raw, err := disks.Only(ctx, released.Header)
	if err != nil {
		released.Wipe()
		return nil, err
	}
	layout, err := volume.LayoutOf(raw.Size)
	if err != nil {
		released.Wipe()
		return nil, fmt.Errorf("checking %s: %w", raw.Name, err)
	}
	return &Found{c, raw, layout, released}, nil
}

func (f *Found) String() string {
	return fmt.Sprintf("%s is volume %s, %d MiB of data, %v, generation %d", f.Disk.Name, f.Config.UUID, f.Layout.DataSize>>20, f.Released.Volume.Found, f.Released.Volume.Generation)
}

// Opened is a mounted volume, with the data that its close needs. The data is kept
// in a file of /run that only root can read, because only root may commit a close.
type Opened struct {
	UUID       pins.UUID         `json:"uuid"`
	Disk       string            `json:"disk"`   // "vdb"
	Number     string            `json:"number"` // "254:16"
	Size       uint64            `json:"size"`   // bytes
	MountPoint string            `json:"mount_point"`
	Generation uint64            `json:"generation"` // when it was opened
	Freshness  bootlog.Freshness `json:"freshness"`
	Holder     keyapi.Holder     `json:"holder"`
	CommitKey  pins.Digest       `json:"commit_key"`
	Made       string            `json:"-"` // the mkfs that made it, if it is new: for the console
}

func (o *Opened) String() string {
	switch o.Freshness {
	case bootlog.New:
		return fmt.Sprintf("%s is new, and formatted by %s", o.MountPoint, o.Made)
	case bootlog.Fresh:
		return fmt.Sprintf("%s is as it was closed, generation %d", o.MountPoint, o.Generation)
	case bootlog.Unclean:
		return fmt.Sprintf("%s was not closed: freshness unknown since generation %d", o.MountPoint, o.Generation)
	}
	return fmt.Sprintf("%s is accepted as it is, by the operator's word: freshness unknown since generation %d", o.MountPoint, o.Generation)
}

// Progress is told what a long step does, and how far the step is, in bytes.
type Progress func(what string, done, size uint64)

// Open opens the volume, makes its filesystem if the volume is new, and mounts it
// below root. It wipes the release.
func (f *Found) Open(ctx context.Context, processes *process.Table, root string, progress Progress) (*Opened, error) {
	defer f.Released.Wipe()
	container, err := luks2.ParseAuthenticated(f.Disk.Header)
	if err != nil {
		return nil, err
	}
	if container.UUID != f.Config.UUID {
		return nil, fmt.Errorf("checking %s: UUID is %s, want %s", f.Disk.Name, container.UUID, f.Config.UUID)
	}
	volumeKey, err := container.VolumeKey(f.Released.Key[:])
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", f.Disk.Name, err)
	}
	defer clear(volumeKey)
	freshness, err := f.prepare(ctx, volumeKey, progress)
	if err != nil {
		return nil, err
	}
	device, err := f.activate(volumeKey)
	if err != nil {
		return nil, err
	}
	made := ""
	if freshness == bootlog.New {
		program, sum, err := mkfsOf(root, f.Config.Filesystem)
		if err != nil {
			return nil, err
		}
		if err := makeFilesystem(ctx, processes, root, program, f.Config.Filesystem, device.Path()); err != nil {
			return nil, err
		}
		made = fmt.Sprintf("%s of the root, SHA-256 %.16s…", program, sum)
	}
	if err := mountBelow(root, f.Config, device.Path()); err != nil {
		return nil, err
	}
	v := f.Released.Volume
	return &Opened{
		UUID: f.Config.UUID, Disk: f.Disk.Name, Number: f.Disk.Number, Size: f.Disk.Size, MountPoint: f.Config.MountPoint,
		Generation: v.Generation, Freshness: freshness, Holder: v.Holder, CommitKey: v.CommitKey, Made: made,
	}, nil
}

// prepare formats a new volume. It compares any other volume with the digest that
// came with its key.
func (f *Found) prepare(ctx context.Context, volumeKey []byte, progress Progress) (bootlog.Freshness, error) {
	d, err := openDevice(f.Disk.Name, f.Disk.Number, os.O_RDWR)
	if err != nil {
		return "", err
	}
	freshness, err := f.prepareOn(ctx, d, volumeKey, progress)
	return freshness, errors.Join(err, d.close())
}

func (f *Found) prepareOn(ctx context.Context, d volume.Disk, volumeKey []byte, progress Progress) (bootlog.Freshness, error) {
	v := f.Released.Volume
	if v.Found == keyapi.FoundNew {
		return bootlog.New, volume.Format(ctx, d, f.Layout, volumeKey, func(done, size uint64) { progress("formatting", done, size) })
	}
	superblock := make([]byte, volume.SuperblockSize)
	if _, err := d.ReadAt(superblock, volume.Offset); err != nil {
		return "", fmt.Errorf("reading dm-integrity superblock: %w", err)
	}
	if err := f.Layout.CheckSuperblock(superblock); err != nil {
		return "", err
	}
	if v.Found == keyapi.FoundAccepted {
		return bootlog.Accepted, nil
	}
	if v.Generation == 0 { // it was never closed, so there is no digest
		return f.unclean(pins.Digest{})
	}
	got, err := volume.Digest(ctx, d, f.Layout, func(done, size uint64) { progress("comparing", done, size) })
	switch {
	case err != nil:
		return "", err
	case got == v.Digest:
		return bootlog.Fresh, nil
	case v.Found == keyapi.FoundClosed:
		return "", fmt.Errorf("comparing %s with what was closed: digest is %s, want %s of generation %d: it was rolled back, exchanged or damaged", f.Disk.Name, got, v.Digest, v.Generation)
	}
	return f.unclean(got)
}

// unclean decides about a volume that was written and not closed.
func (f *Found) unclean(got pins.Digest) (bootlog.Freshness, error) {
	v := f.Released.Volume
	if !v.AcceptUnclean {
		return "", fmt.Errorf("checking %s: it was not closed by the launch that had it, and is not what was closed as generation %d (digest %s): its record refuses that", f.Disk.Name, v.Generation, got)
	}
	return bootlog.Unclean, nil
}

// Names of the device-mapper devices, as the booted system sees them.
func tagsName(uuid pins.UUID) string { return "rootvouch-tags-" + uuid.String() }
func dataName(uuid pins.UUID) string { return "rootvouch-volume-" + uuid.String() }

// activate makes dm-integrity and dm-crypt over it.
func (f *Found) activate(volumeKey []byte) (*dm.Device, error) {
	control, err := dm.Open()
	if err != nil {
		return nil, err
	}
	tags, err := control.Create(tagsName(f.Config.UUID), dm.Integrity{
		Device: f.Disk.Number, Offset: volume.Offset, Size: f.Layout.DataSize, SectorSize: volume.SectorSize, TagSize: volume.TagSize,
	}.Target())
	if err != nil {
		return nil, err
	}
	table := dm.Crypt{
		Device: tags.Number(), Cipher: cipher, Key: "rootvouch:" + f.Config.UUID.String(), KeySize: len(volumeKey),
		Size: f.Layout.DataSize, SectorSize: volume.SectorSize, TagSize: volume.TagSize,
	}
	var data *dm.Device
	err = dm.WithLogonKey(table.Key, volumeKey, func() (err error) {
		data, err = control.Create(dataName(f.Config.UUID), table.Target())
		return err
	})
	if err != nil {
		return nil, errors.Join(err, tags.Remove())
	}
	return data, nil
}

// Encode encodes volumes for the program that closes them.
func Encode(all []*Opened) []byte {
	data, err := json.Marshal(all)
	if err != nil {
		panic("volumes: internal error: " + err.Error())
	}
	return data
}

// Decode reads what Encode wrote.
func Decode(data []byte) ([]*Opened, error) {
	var all []*Opened
	if err := strictjson.Unmarshal(data, &all); err != nil {
		return nil, fmt.Errorf("decoding the list of volumes: %v", err)
	}
	return all, nil
}

// Log returns the boot log's entries about volumes.
func Log(all []*Opened) []bootlog.Volume {
	var log []bootlog.Volume
	for _, o := range all {
		log = append(log, bootlog.Volume{UUID: o.UUID, MountPoint: o.MountPoint, Generation: o.Generation, Freshness: o.Freshness})
	}
	return log
}

// Disks returns the names of the volumes' disks.
func Disks(all []*Opened) []string {
	var names []string
	for _, o := range all {
		names = append(names, o.Disk)
	}
	return names
}
