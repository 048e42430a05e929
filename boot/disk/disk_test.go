package disk

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rootvouch/rootvouch/dm"
	"github.com/rootvouch/rootvouch/luks2"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/verity"
	"golang.org/x/sys/unix"
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

func TestCheckHeader(t *testing.T) {
	uuid, v := pins.UUID{7}, sampleVerity()
	container := func() *luks2.Container {
		return &luks2.Container{UUID: uuid, PayloadOffset: luks2.HeaderSize, SectorSize: 4096}
	}
	d := &candidate{size: v.PayloadOffset + v.PayloadSize}
	if err := checkHeader(d, container(), uuid, v); err != nil {
		t.Error(err)
	}
	for want, change := range map[string]func(*candidate, *luks2.Container){
		"UUID is":           func(_ *candidate, c *luks2.Container) { c.UUID[0]++ },
		"payload offset is": func(_ *candidate, c *luks2.Container) { c.PayloadOffset++ },
		"sector size is":    func(_ *candidate, c *luks2.Container) { c.SectorSize = 512 },
		"size is":           func(d *candidate, _ *luks2.Container) { d.size-- },
	} {
		d, c := *d, container()
		change(&d, c)
		if err := checkHeader(&d, c, uuid, v); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("got error %v, want one with %q", err, want)
		}
	}
}

// TestCheckSuperblock plays a host that puts other sectors in place of the
// superblock, so the VM decrypts those. The error must always be the same.
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
	crypt := cryptTable("254:0", pins.UUID{1}, sampleVerity()).Target()
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

// TestUnlockWipes checks the arrays of both keys after unlock.
func TestUnlockWipes(t *testing.T) {
	var key [luks2.PassphraseSize]byte
	var volumeKey [luks2.VolumeKeySize]byte
	for _, b := range [][]byte{key[:], volumeKey[:]} {
		if _, err := rand.Read(b); err != nil {
			t.Fatal(err)
		}
	}
	header, err := luks2.Build(luks2.Params{UUID: pins.UUID{1}, SequenceID: 1, Passphrase: key[:], VolumeKey: volumeKey[:], Random: rand.Reader})
	if err != nil {
		t.Fatal(err)
	}
	container, err := luks2.Parse(header)
	if err != nil {
		t.Fatal(err)
	}
	failed := errors.New("table refused")
	for _, c := range []struct {
		name  string
		wrong bool
		use   error
		want  error
	}{{"good", false, nil, nil}, {"use fails", false, failed, failed}, {"wrong key", true, nil, luks2.ErrWrongKey}} {
		given := key
		if c.wrong {
			given[0]++
		}
		var seen []byte
		err := unlock(container, given[:], func(k []byte) error {
			seen = k
			if !bytes.Equal(k, volumeKey[:]) {
				t.Errorf("%s: got another volume key", c.name)
			}
			return c.use
		})
		if !errors.Is(err, c.want) {
			t.Errorf("%s: got error %v, want %v", c.name, err, c.want)
		}
		if (seen == nil) != c.wrong {
			t.Errorf("%s: use was called: %v", c.name, seen != nil)
		}
		if !bytes.Equal(seen, make([]byte, len(seen))) || given != [luks2.PassphraseSize]byte{} {
			t.Errorf("%s: a key was not wiped", c.name)
		}
	}
}

// TestReadAll reads a file. readAll uses O_DIRECT, which most filesystems support
// as well as devices.
func TestReadAll(t *testing.T) {
	path := filepath.Join(t.TempDir(), "device")
	const size = 5*readSize/2 + 4096
	if err := os.WriteFile(path, bytes.Repeat([]byte{1}, size), 0o600); err != nil {
		t.Fatal(err)
	}
	var last atomic.Uint64
	note := func(done, of uint64) {
		for {
			if old := last.Load(); old >= done || last.CompareAndSwap(old, done) {
				return
			}
		}
	}
	err := readAll(t.Context(), path, size, 3, note)
	if errors.Is(err, unix.EINVAL) {
		t.Skip("SKIPPED: the temporary directory's filesystem does not take O_DIRECT")
	}
	if err != nil || last.Load() != size {
		t.Errorf("got %v, progress to %d, want %d", err, last.Load(), size)
	}
	if err := readAll(t.Context(), path, size+4096, 3, note); err == nil {
		t.Error("got no error for a device that is too short")
	}
	if err := readAll(t.Context(), path+"x", size, 2, note); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got error %v, want one that matches os.ErrNotExist", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), -time.Second)
	defer cancel()
	if err := readAll(ctx, path, size, 2, note); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got error %v, want that of the ended context", err)
	}
}

func TestVerityCorruption(t *testing.T) {
	for line, want := range map[string]string{
		"3,512,5098000,-;device-mapper: verity: 254:0: data block 100 is corrupted":     "data",
		"3,512,5098000,-;device-mapper: verity: 254:0: metadata block 739 is corrupted": "metadata",
		"6,1,0,-;device-mapper: uevent: version 1.0.3":                                  "",
	} {
		got := ""
		if found := verityCorruption.FindStringSubmatch(line); found != nil {
			got = found[1]
		}
		if got != want {
			t.Errorf("%q: got %q, want %q", line, got, want)
		}
	}
}
