package boot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rootvouch/rootvouch/dm"
	"github.com/rootvouch/rootvouch/luks2"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/verity"
)

func sampleVerity() pins.Verity {
	return pins.Verity{
		RootHash: pins.Digest{0xab}, Salt: pins.HexBytes{1, 2}, DataBlocks: 10, HashOffset: 40960,
		PayloadOffset: luks2.HeaderSize, PayloadSize: 49152,
	}
}

func TestClaimedUUID(t *testing.T) {
	header := make([]byte, 4096)
	copy(header, luksMagic)
	copy(header[luksUUIDOffset:], "01020304-0506-4708-890a-0b0c0d0e0f10")
	uuid, ok := claimedUUID(header)
	if want := "01020304-0506-4708-890a-0b0c0d0e0f10"; !ok || uuid.String() != want {
		t.Errorf("got %s, %v, want %s", uuid, ok, want)
	}
	for name, change := range map[string]func([]byte) []byte{
		"short":        func(b []byte) []byte { return b[:luksUUIDOffset] },
		"LUKS1":        func(b []byte) []byte { b[7] = 1; return b },
		"upper case":   func(b []byte) []byte { b[luksUUIDOffset+35] = 'A'; return b },
		"no end":       func(b []byte) []byte { copy(b[luksUUIDOffset+36:], "xxxx"); return b },
		"other magic":  func(b []byte) []byte { b[0] = 'S'; return b },
		"no UUID":      func(b []byte) []byte { clear(b[luksUUIDOffset:]); return b },
		"empty header": func([]byte) []byte { return nil },
	} {
		if uuid, ok := claimedUUID(change(append([]byte(nil), header...))); ok {
			t.Errorf("%s: got %s, want none", name, uuid)
		}
	}
}

func TestCheckDisk(t *testing.T) {
	uuid, v := pins.UUID{7}, sampleVerity()
	container := func() *luks2.Container {
		return &luks2.Container{UUID: uuid, PayloadOffset: luks2.HeaderSize, SectorSize: 4096}
	}
	d := &disk{size: v.PayloadOffset + v.PayloadSize}
	if err := checkDisk(d, container(), uuid, v); err != nil {
		t.Error(err)
	}
	for want, change := range map[string]func(*disk, *luks2.Container){
		"UUID is":           func(_ *disk, c *luks2.Container) { c.UUID[0]++ },
		"payload offset is": func(_ *disk, c *luks2.Container) { c.PayloadOffset++ },
		"sector size is":    func(_ *disk, c *luks2.Container) { c.SectorSize = 512 },
		"size is":           func(d *disk, _ *luks2.Container) { d.size-- },
	} {
		d, c := *d, container()
		change(&d, c)
		if err := checkDisk(&d, c, uuid, v); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("got error %v, want one with %q", err, want)
		}
	}
}

// TestCheckSuperblock plays a host that has other sectors decrypted in the place
// of the superblock: the error must be one and the same.
func TestCheckSuperblock(t *testing.T) {
	v := sampleVerity()
	good := verity.Superblock{UUID: pins.UUID{3}, DataBlocks: 10, Salt: []byte{1, 2}}
	check := func(s verity.Superblock, change func([]byte)) error {
		b, err := s.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		change(b)
		path := filepath.Join(t.TempDir(), "device")
		if err := os.WriteFile(path, append(make([]byte, v.HashOffset), b...), 0o600); err != nil {
			t.Fatal(err)
		}
		return checkSuperblock(path, v)
	}
	same := func([]byte) {}
	if err := check(good, same); err != nil {
		t.Error(err)
	}
	refusals := map[string]error{
		"data blocks": check(verity.Superblock{DataBlocks: 9, Salt: []byte{1, 2}}, same),
		"salt":        check(verity.Superblock{DataBlocks: 10, Salt: []byte{1, 3}}, same),
		"no salt":     check(verity.Superblock{DataBlocks: 10}, same),
	}
	for at := range verity.SuperblockSize {
		if at >= 0x10 && at < 0x20 { // UUID
			continue
		}
		refusals[fmt.Sprintf("byte %#x", at)] = check(good, func(b []byte) { b[at] ^= 'S' })
	}
	for name, err := range refusals {
		if err == nil || err.Error() != "checking dm-verity superblock: it differs from the pins" {
			t.Errorf("%s: got error %v, want one that says nothing of the bytes", name, err)
		}
	}
	if err := checkSuperblock(filepath.Join(t.TempDir(), "none"), v); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got error %v, want one that matches os.ErrNotExist", err)
	}
}

func TestTables(t *testing.T) {
	d := &disk{number: "254:0"}
	crypt := cryptTable(d, pins.UUID{1}, sampleVerity()).Target()
	if want := (dm.Target{Length: 96, Type: "crypt",
		Params: "aes-xts-plain64 :64:logon:rootvouch:01000000-0000-0000-0000-000000000000 0 254:0 2048 1 sector_size:4096"}); crypt != want {
		t.Errorf("got %+v, want %+v", crypt, want)
	}
	got := verityTable("253:0", sampleVerity(), dm.Panic).Target()
	if want := (dm.Target{Length: 80, Type: "verity",
		Params: "1 253:0 253:0 4096 4096 10 11 sha256 ab" + strings.Repeat("0", 62) + " 0102 2 panic_on_corruption panic_on_error"}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
