package volume

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/rootvouch/rootvouch/luks2"
	"github.com/rootvouch/rootvouch/pins"
)

var uuid = pins.UUID{6: 0x40, 8: 0x80, 15: 9}

// memory is a device.
type memory []byte

func (m memory) WriteAt(b []byte, at int64) (int, error) {
	if at+int64(len(b)) > int64(len(m)) {
		return 0, errors.New("write behind the end")
	}
	return copy(m[at:], b), nil
}

func (m memory) ReadAt(b []byte, at int64) (int, error) { return bytes.NewReader(m).ReadAt(b, at) }
func (m memory) Sync() error                            { return nil }

func none(done, size uint64) {}

// made is a volume of 40 MiB that was formatted, and its volume key.
func made(t *testing.T) (memory, Layout, []byte) {
	t.Helper()
	l, err := LayoutOf(40 << 20)
	if err != nil {
		t.Fatal(err)
	}
	header, err := Header([32]byte{1}, uuid)
	if err != nil {
		t.Fatal(err)
	}
	c, err := luks2.ParseAuthenticated(header)
	if err != nil {
		t.Fatal(err)
	}
	key := [32]byte{1}
	volumeKey, err := c.VolumeKey(key[:])
	if err != nil {
		t.Fatal(err)
	}
	m := make(memory, l.Size)
	copy(m, header)
	if err := Format(context.Background(), m, l, volumeKey, none); err != nil {
		t.Fatal(err)
	}
	return m, l, volumeKey
}

// The header is a function of key and UUID, and of nothing else.
func TestHeader(t *testing.T) {
	one, err := Header([32]byte{1}, uuid)
	if err != nil {
		t.Fatal(err)
	}
	again, _ := Header([32]byte{1}, uuid)
	if !bytes.Equal(one, again) {
		t.Error("the same key and UUID give another header")
	}
	key, _ := Header([32]byte{2}, uuid)
	other, _ := Header([32]byte{1}, pins.UUID{6: 0x40, 8: 0x80, 15: 10})
	if bytes.Equal(one[4096:], key[4096:]) || bytes.Equal(one[4096:], other[4096:]) {
		t.Error("another key or UUID gives the same header")
	}
	if _, err := luks2.Parse(one); err == nil || !strings.Contains(err.Error(), "segments.0.integrity") {
		t.Errorf("read as a disk's header: got %v, want an error about its integrity", err)
	}
}

// Layouts that the kernel (6.12) makes of devices of these sizes are in the tests of
// package boot/volume; here the areas must lie one behind the other.
func TestLayout(t *testing.T) {
	for _, size := range []uint64{MinSize, 40 << 20, 1<<30 + 512, 1 << 40, MaxSize} {
		l, err := LayoutOf(size)
		if err != nil {
			t.Fatal(err)
		}
		last := l.Runs() - 1
		end := l.tagsAt(last) + RunSize + l.tagsIn(last)*SectorSize
		if end > size || size-end >= areaSize/256+2*RunSize+2*SectorSize {
			t.Errorf("size %d: data ends at %d", size, end)
		}
		if l.DataSize%SectorSize != 0 || l.JournalSize() > maxJournal || l.JournalSize() == 0 {
			t.Errorf("size %d: layout is %+v", size, l)
		}
		if err := l.CheckSuperblock(l.Superblock()); err != nil {
			t.Error(err)
		}
	}
	for _, size := range []uint64{0, MinSize - 1, MaxSize + 1} {
		if l, err := LayoutOf(size); err == nil {
			t.Errorf("size %d: got %+v, want an error", size, l)
		}
	}
}

// Every byte of the superblock is pinned.
func TestCheckSuperblock(t *testing.T) {
	l, err := LayoutOf(40 << 20)
	if err != nil {
		t.Fatal(err)
	}
	for at := range SuperblockSize {
		b := l.Superblock()
		b[at] ^= 1
		if l.CheckSuperblock(b) == nil {
			t.Fatalf("a changed byte %d passes", at)
		}
	}
	bigger, _ := LayoutOf(80 << 20)
	if err := bigger.CheckSuperblock(l.Superblock()); err == nil {
		t.Error("the superblock of a smaller volume passes")
	}
	grown, _ := LayoutOf(41 << 20)
	grown.sections = l.sections
	if err := grown.CheckSuperblock(l.Superblock()); err == nil || !strings.Contains(err.Error(), "truncated or grown") {
		t.Errorf("got %v, want a word about another size", err)
	}
}

// What a disk had before is no sector of the volume: a format over it leaves what one over
// zeros leaves.
func TestFormatOverData(t *testing.T) {
	want, l, volumeKey := made(t)
	m := slices.Clone(want[:Offset])
	for at := Offset; at < len(want); at++ {
		m = append(m, byte(at*7)|1)
	}
	if err := Format(context.Background(), m, l, volumeKey, none); err != nil {
		t.Fatal(err)
	}
	end := l.dataEnd(l.DataSize)
	for at := uint64(0); at < end; at += SectorSize {
		if !bytes.Equal(m[at:min(end, at+SectorSize)], want[at:min(end, at+SectorSize)]) {
			t.Fatalf("offset %#x differs from a format over zeros", at)
		}
	}
}

// A tag is HMAC-SHA256 over number, IV and ciphertext, and each sector has its own.
func TestFormatTags(t *testing.T) {
	m, l, volumeKey := made(t)
	for _, sector := range []uint64{0, 1, areaSize/SectorSize - 1, areaSize / SectorSize, l.DataSize/SectorSize - 1} {
		run, in := sector*SectorSize/areaSize, sector%(areaSize/SectorSize)
		got := m[l.tagsAt(run)+in*TagSize:][:TagSize]
		mac := hmac.New(sha256.New, volumeKey[64:])
		number := binary.LittleEndian.AppendUint64(nil, sector*8)
		mac.Write(number)
		mac.Write(append(number, make([]byte, 8+SectorSize)...))
		if !bytes.Equal(got, mac.Sum(nil)) {
			t.Errorf("sector %d: tag is %x", sector, got)
		}
	}
}

// Each byte that is not data counts, and the data does not.
func TestDigest(t *testing.T) {
	m, l, _ := made(t)
	digest := func() pins.Digest {
		d, err := Digest(context.Background(), bytes.NewReader(m), l, none)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	want := digest()
	for name, at := range map[string]uint64{
		"header": 100, "keyslots": 300 << 10, "superblock": Offset + 9, "journal": Offset + SuperblockSize + 70_000,
		"first tag": l.tagsAt(0), "last run": l.tagsAt(l.Runs()-1) + RunSize - 1,
	} {
		m[at] ^= 1
		if digest() == want {
			t.Errorf("%s: a changed byte gives the same digest", name)
		}
		m[at] ^= 1
	}
	m[l.tagsAt(0)+RunSize] ^= 1
	if digest() != want {
		t.Error("a changed byte of data gives another digest")
	}
}

// Every sector is held against its tag.
func TestVerify(t *testing.T) {
	m, l, volumeKey := made(t)
	verify := func() (bad, first uint64) {
		t.Helper()
		bad, first, err := Verify(context.Background(), bytes.NewReader(m), l, volumeKey, none)
		if err != nil {
			t.Fatal(err)
		}
		return bad, first
	}
	if bad, _ := verify(); bad != 0 {
		t.Errorf("%d sectors of a new volume do not match", bad)
	}
	data := l.tagsAt(1) + RunSize // of the second area
	m[data+SectorSize] ^= 1       // its second sector
	m[data+5*SectorSize] ^= 1
	if bad, first := verify(); bad != 2 || first != areaSize/SectorSize+1 {
		t.Errorf("got %d, the first is %d, want 2 and %d", bad, first, areaSize/SectorSize+1)
	}
	m[data+SectorSize] ^= 1
	m[data+5*SectorSize] ^= 1
	first, second := m[l.tagsAt(0):][:TagSize], m[l.tagsAt(0)+TagSize:][:TagSize]
	saved := bytes.Clone(first)
	copy(first, second)
	copy(second, saved)
	if bad, _ := verify(); bad != 2 {
		t.Errorf("two tags that changed places: %d sectors do not match, want 2", bad)
	}
	if _, _, err := Verify(context.Background(), bytes.NewReader(m[:l.tagsAt(1)]), l, volumeKey, none); err == nil {
		t.Error("a short volume verifies")
	}
}

func TestPins(t *testing.T) {
	p := NewPins(pins.Header{DiskUUID: uuid, HeaderSHA256: pins.Digest{1}}, 40<<20)
	if got, err := DecodePins(p.Encode()); err != nil || got != p {
		t.Errorf("got %+v, %v, want %+v", got, err, p)
	}
	for _, c := range []struct{ old, new, want string }{
		{`"version": 1`, `"version": 2`, "version is 2"},
		{`"size": 41943040`, `"size": 1`, "size of the volume is 1"},
		{`"01000`, `"00000`, "luks2_header_sha256 is all zero"},
		{`"size"`, `"seize"`, "unknown"},
	} {
		data := strings.Replace(string(p.Encode()), c.old, c.new, 1)
		if _, err := DecodePins([]byte(data)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got error %v, want one with %q", c.new, err, c.want)
		}
	}
}

// Runs are read in any order, and stand in one.
func TestDigestOrder(t *testing.T) {
	m, l, _ := made(t)
	one, err := Digest(context.Background(), bytes.NewReader(m), l, none)
	if err != nil {
		t.Fatal(err)
	}
	first, second := m[l.tagsAt(0):][:RunSize], m[l.tagsAt(1):][:RunSize]
	saved := bytes.Clone(first)
	copy(first, second)
	copy(second, saved)
	two, err := Digest(context.Background(), bytes.NewReader(m), l, none)
	if err != nil || one == two {
		t.Errorf("two runs that changed places: got the same digest, or %v", err)
	}
}

// cached is a device that may lose, at a power cut, any write that was not made durable.
type cached struct {
	memory
	t *testing.T

	mu                sync.Mutex
	superblock, other int // writes that are not durable
}

func (c *cached) WriteAt(b []byte, at int64) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if at == Offset {
		c.superblock++
	} else {
		c.other++
	}
	if c.superblock > 0 && c.other > 0 {
		c.t.Errorf("at %d: %d writes of the superblock and %d others may be lost, each without the other", at, c.superblock, c.other)
	}
	return c.memory.WriteAt(b, at)
}

func (c *cached) Sync() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.superblock, c.other = 0, 0
	return nil
}

// A host that loses its power in the middle of a format has no superblock without all tags.
func TestFormatOrder(t *testing.T) {
	m, l, volumeKey := made(t)
	c := &cached{memory: bytes.Clone(m), t: t}
	if err := Format(t.Context(), c, l, volumeKey, none); err != nil || c.superblock != 1 || !bytes.Equal(c.memory, m) {
		t.Errorf("got %v, with %d writes of the superblock at the end, want one", err, c.superblock)
	}
}

// What cannot be written or read is an error, and the superblock comes last.
func TestFormatFails(t *testing.T) {
	m, l, volumeKey := made(t)
	short := m[:l.tagsAt(1)] // it was formatted before
	if err := Format(context.Background(), short, l, volumeKey, none); err == nil {
		t.Error("a device that is too short is formatted")
	}
	if l.CheckSuperblock(short[Offset:][:SuperblockSize]) == nil {
		t.Error("a format that failed left a superblock")
	}
	if _, err := Digest(context.Background(), bytes.NewReader(short), l, none); err == nil {
		t.Error("a device that is too short has a digest")
	}
	if err := Format(context.Background(), short, l, volumeKey[:64], none); err == nil {
		t.Error("a short key formats")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := Format(ctx, make(memory, l.Size), l, volumeKey, none); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want %v", err, context.Canceled)
	}
}
