package boot

import (
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

func TestCheckSuperblock(t *testing.T) {
	v := sampleVerity()
	good := verity.Superblock{DataBlocks: 10, Salt: []byte{1, 2}}
	if err := checkSuperblock(good, v); err != nil {
		t.Error(err)
	}
	for _, bad := range []verity.Superblock{
		{DataBlocks: 9, Salt: []byte{1, 2}}, {DataBlocks: 10, Salt: []byte{1, 3}}, {DataBlocks: 10},
	} {
		if err := checkSuperblock(bad, v); err == nil {
			t.Errorf("got no error for %+v", bad)
		}
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
		Params: "1 253:0 253:0 4096 4096 10 11 sha256 ab" + strings.Repeat("0", 62) + " 0102 1 panic_on_corruption"}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
