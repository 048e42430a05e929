package image

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rootvouch/rootvouch/luks2"
	"github.com/rootvouch/rootvouch/pins"
)

func TestRekey(t *testing.T) {
	b := mustBuild(t, tarSource(t, smallTar(t)), Options{})
	before, oldKey := read(t, b.Disk), read(t, b.Key)
	dir := filepath.Dir(b.Disk)
	files := Files{Disk: b.Disk, Key: filepath.Join(dir, "key2"), Pins: filepath.Join(dir, "pins2")}
	newKey := [32]byte{1, 2, 3}
	if _, err := Rekey(context.Background(), Files{Disk: b.Disk, Key: b.Key, Pins: files.Pins}, oldKey, b.pins, newKey, rand.Reader); !errors.Is(err, os.ErrExist) {
		t.Errorf("existing key file: got %v", err)
	}
	if _, err := Rekey(context.Background(), files, newKey[:], b.pins, newKey, rand.Reader); !errors.Is(err, luks2.ErrWrongKey) {
		t.Errorf("wrong key: got %v", err)
	}
	device := files
	device.Disk = "/dev/zero"
	if _, err := Rekey(context.Background(), device, oldKey, b.pins, newKey, rand.Reader); err == nil || !strings.Contains(err.Error(), "want a regular file") {
		t.Errorf("device: got %v", err)
	}
	backup := b.Disk + ".header-backup"
	if err := os.WriteFile(backup, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Rekey(context.Background(), files, oldKey, b.pins, newKey, rand.Reader); err == nil || !strings.Contains(err.Error(), "interrupted") {
		t.Errorf("backup of an interrupted rekeying: got %v", err)
	}
	if err := os.Remove(backup); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(before, read(t, b.Disk)) {
		t.Fatal("a failed rekeying changed the disk")
	}
	p, err := Rekey(context.Background(), files, oldKey, b.pins, newKey, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	after := read(t, b.Disk)
	if !bytes.Equal(before[luks2.HeaderSize:], after[luks2.HeaderSize:]) {
		t.Error("the payload changed")
	}
	if p.Verity.RootHash != b.pins.RootHash || p.DiskUUID != b.pins.DiskUUID || p.HeaderSHA256 == b.pins.HeaderSHA256 {
		t.Errorf("got pins %+v of %+v", p, b.pins)
	}
	if err := verify(after, read(t, files.Key), p); err != nil {
		t.Error(err)
	}
	if err := verify(after, oldKey, p); !errors.Is(err, luks2.ErrWrongKey) {
		t.Errorf("old key: got %v", err)
	}
	if err := verify(after, newKey[:], b.pins); !errors.Is(err, ErrMismatch) {
		t.Errorf("old pins: got %v", err)
	}
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(left) != 5 {
		t.Errorf("got files %v (%v), want 5", left, err)
	}
}

// TestRekeyTwice: of two rekeyings at once the second does not undo the first,
// whose key would open nothing then.
func TestRekeyTwice(t *testing.T) {
	b := mustBuild(t, tarSource(t, smallTar(t)), Options{})
	dir, oldKey := filepath.Dir(b.Disk), read(t, b.Key)
	rekey := func(name string, key [32]byte, random io.Reader) (pins.Pins, error) {
		files := Files{Disk: b.Disk, Key: filepath.Join(dir, name+".key"), Pins: filepath.Join(dir, name+".pins")}
		return Rekey(context.Background(), files, oldKey, b.pins, key, random)
	}
	var first pins.Pins
	meanwhile := readerFunc(func(p []byte) (n int, err error) {
		if first.DiskUUID != b.pins.DiskUUID {
			if first, err = rekey("first", [32]byte{1}, rand.Reader); err != nil {
				t.Fatal(err)
			}
		}
		return rand.Read(p)
	})
	if _, err := rekey("second", [32]byte{2}, meanwhile); err == nil || !strings.Contains(err.Error(), "changed meanwhile") {
		t.Errorf("got error %v, want that the header has changed", err)
	}
	if err := verify(read(t, b.Disk), read(t, filepath.Join(dir, "first.key")), first); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 5 {
		t.Errorf("got files %v (%v), want 5", left, err)
	}
}

type readerFunc func(b []byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }
