// Package disk turns the one disk that the pins name into a decrypted and
// verified block device.
//
// The host controls the disk, so each step uses only measured pins and bytes that
// an earlier step has checked. Finder reads a header region once and compares its
// digest. Disk.Decrypt opens the keyslot of that copy. Decrypted.Check puts
// dm-verity over the decrypted device. Checked.ReadAll reads every block.
package disk

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/rootvouch/rootvouch/boot/wait"
	"github.com/rootvouch/rootvouch/luks2"
	"github.com/rootvouch/rootvouch/pins"
	"golang.org/x/sys/unix"
)

const sysBlock = "/sys/class/block"

// maxDisks bounds the number of disks that Finder reads. Otherwise a host that
// keeps adding disks could fill the memory with their header regions.
const maxDisks = 16

// The place of the UUID in a LUKS2 header ("LUKS2 On-Disk Format Specification",
// version 1.1.1, section 2.1). Only OnlyUUID reads it there.
const (
	luksMagic      = "LUKS\xba\xbe\x00\x02" // magic and version 2
	luksUUIDOffset = 0xa8
	luksUUIDSize   = 40
)

// candidate is a whole disk whose header region has been read.
type candidate struct {
	name   string // "vda"
	number string // "254:0"
	size   uint64 // bytes
	header []byte // the copy that every later step uses; the disk is not read again
	digest pins.Digest
}

// Finder looks for a disk. It reads the header region of each disk once, so a host
// cannot answer a second read differently.
type Finder struct {
	headerSize uint64 // bytes
	seen       map[string]bool
	read       []*candidate
	skipped    []string // disks that could not be candidates, and why
}

// NewFinder returns a Finder that reads the first headerSize bytes of disks.
func NewFinder(headerSize uint64) *Finder {
	return &Finder{headerSize: headerSize, seen: make(map[string]bool)}
}

// Disk is the disk that the pins name, with its header.
type Disk struct {
	candidate
	container *luks2.Container
	pins      pins.Verity
}

func (d *Disk) String() string {
	return fmt.Sprintf("%s is disk %s, header SHA-256 %.16s…", d.name, d.container.UUID, d.digest)
}

// Find waits for the disk whose header region has the pinned digest, and only
// then parses that copy of the region.
func (f *Finder) Find(ctx context.Context, want pins.Header, v pins.Verity) (*Disk, error) {
	c, err := f.first(ctx, func(c *candidate) bool { return c.digest == want.HeaderSHA256 })
	if err != nil {
		return nil, fmt.Errorf("looking for a disk whose first %d bytes have SHA-256 %s: %w", f.headerSize, want.HeaderSHA256, err)
	}
	container, err := luks2.Parse(c.header)
	if err != nil {
		return nil, err
	}
	if err := checkHeader(c, container, want.DiskUUID, v); err != nil {
		return nil, fmt.Errorf("checking %s: %w", c.name, err)
	}
	return &Disk{candidate: *c, container: container, pins: v}, nil
}

// checkHeader compares the header's values with the pins.
func checkHeader(d *candidate, c *luks2.Container, uuid pins.UUID, v pins.Verity) error {
	switch end := v.PayloadOffset + v.PayloadSize; {
	case c.UUID != uuid:
		return fmt.Errorf("UUID is %s, want %s", c.UUID, uuid)
	case c.PayloadOffset != v.PayloadOffset:
		return fmt.Errorf("payload offset is %d, want %d", c.PayloadOffset, v.PayloadOffset)
	case c.SectorSize != pins.BlockSize:
		return fmt.Errorf("sector size is %d, want %d", c.SectorSize, pins.BlockSize)
	case d.size < end:
		return fmt.Errorf("size is %d bytes, want at least %d", d.size, end)
	}
	return nil
}

// OnlyUUID waits for an encrypted disk and returns the UUID that its header
// claims. With several UUIDs it refuses to guess.
func (f *Finder) OnlyUUID(ctx context.Context) (pins.UUID, error) {
	first, err := f.first(ctx, func(c *candidate) bool { _, ok := claimedUUID(c.header); return ok })
	if err != nil {
		return pins.UUID{}, fmt.Errorf("looking for an encrypted disk: %w", err)
	}
	uuid, _ := claimedUUID(first.header)
	for _, d := range f.read {
		if other, ok := claimedUUID(d.header); ok && other != uuid {
			return pins.UUID{}, fmt.Errorf("looking for the encrypted disk: %s is %s and %s is %s; pin one in the boot configuration",
				first.name, uuid, d.name, other)
		}
	}
	return uuid, nil
}

// claimedUUID returns the UUID of an unchecked LUKS2 header.
func claimedUUID(header []byte) (pins.UUID, bool) {
	if len(header) < luksUUIDOffset+luksUUIDSize || !bytes.HasPrefix(header, []byte(luksMagic)) {
		return pins.UUID{}, false
	}
	text, _, _ := bytes.Cut(header[luksUUIDOffset:][:luksUUIDSize], []byte{0})
	uuid, err := pins.ParseUUID(string(text))
	return uuid, err == nil
}

// first returns the first disk that matches. It reads disks that have appeared
// since the last call, until ctx ends.
func (f *Finder) first(ctx context.Context, matches func(*candidate) bool) (*candidate, error) {
	for {
		if err := f.readNew(); err != nil {
			return nil, err
		}
		for _, c := range f.read {
			if matches(c) {
				return c, nil
			}
		}
		if wait.Pause(ctx) != nil {
			return nil, f.none()
		}
	}
}

// none returns an error that lists the disks that were found instead.
func (f *Finder) none() error {
	var found []string
	for _, d := range f.read {
		found = append(found, fmt.Sprintf("%s with %s", d.name, d.digest))
	}
	found = append(found, f.skipped...)
	if len(found) == 0 {
		return errors.New("got no disk at all")
	}
	return fmt.Errorf("got %s", strings.Join(found, ", "))
}

// readNew reads the header regions of whole disks that were not there before.
func (f *Finder) readNew() error {
	entries, err := os.ReadDir(sysBlock)
	if err != nil {
		return fmt.Errorf("listing disks: %w", err)
	}
	for _, e := range entries {
		name := e.Name()
		if f.seen[name] || !isWholeDisk(name) {
			continue
		}
		if len(f.seen) == maxDisks {
			return fmt.Errorf("listing disks: got more than %d", maxDisks)
		}
		f.seen[name] = true
		c, err := readDisk(name, f.headerSize)
		if err != nil {
			f.skipped = append(f.skipped, fmt.Sprintf("%s (%v)", name, err))
			continue
		}
		f.read = append(f.read, c)
	}
	return nil
}

// isWholeDisk reports whether a block device is a disk with hardware behind it: no
// partition, no loop, RAM or device-mapper device.
func isWholeDisk(name string) bool {
	_, err := os.Stat(filepath.Join(sysBlock, name, "device"))
	if err != nil {
		return false
	}
	_, err = os.Stat(filepath.Join(sysBlock, name, "partition"))
	return errors.Is(err, os.ErrNotExist)
}

// readDisk reads the header region, and checks that the node that it reads has the
// device number that tables will name.
func readDisk(name string, headerSize uint64) (*candidate, error) {
	number, err := readSysfs(name, "dev")
	if err != nil {
		return nil, err
	}
	sizeText, err := readSysfs(name, "size")
	if err != nil {
		return nil, err
	}
	sectors, err := strconv.ParseUint(sizeText, 10, 54) // 512-byte sectors
	if err != nil {
		return nil, fmt.Errorf("parsing size: %v", err)
	}
	d := &candidate{name: name, number: number, size: sectors * 512}
	if d.size < headerSize {
		return nil, fmt.Errorf("size is %d bytes", d.size)
	}
	file, err := os.Open(filepath.Join("/dev", strings.ReplaceAll(name, "!", "/")))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if got, err := deviceNumber(file); err != nil || got != number {
		return nil, fmt.Errorf("device number is %q (%v), want %q", got, err, number)
	}
	d.header = make([]byte, headerSize)
	if _, err := io.ReadFull(file, d.header); err != nil {
		return nil, fmt.Errorf("reading header region: %v", err)
	}
	d.digest = sha256.Sum256(d.header)
	return d, nil
}

func readSysfs(name, attribute string) (string, error) {
	data, err := os.ReadFile(filepath.Join(sysBlock, name, attribute))
	return strings.TrimSpace(string(data)), err
}

func deviceNumber(file *os.File) (string, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &st); err != nil {
		return "", err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return "", errors.New("not a block device")
	}
	return fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev)), nil
}
