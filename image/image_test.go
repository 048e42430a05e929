package image

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/rootvouch/rootvouch/luks2"
	"github.com/rootvouch/rootvouch/pins"
)

func read(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func write(t testing.TB, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func verify(disk []byte, key []byte, p pins.Pins) error {
	d, err := OpenDisk(bytes.NewReader(disk), int64(len(disk)))
	if err != nil {
		return err
	}
	return d.Verify(context.Background(), key, p, nil, Options{})
}

// TestReproducible: the same input and seed give the same bytes, whatever the
// number of goroutines and the way the input comes.
func TestReproducible(t *testing.T) {
	data := smallTar(t)
	var first []byte
	for workers := 1; workers <= 5; workers++ {
		b := mustBuild(t, tarSource(t, data), Options{Workers: workers})
		all := bytes.Join([][]byte{read(t, b.Disk), read(t, b.Key), read(t, b.Pins)}, nil)
		if first == nil {
			first = all
		}
		if !bytes.Equal(first, all) {
			t.Errorf("%d workers: other bytes than with one", workers)
		}
	}
	source, closeSource, err := Open(context.Background(), Input{Path: "-", Stdin: bytes.NewReader(data)})
	if err != nil {
		t.Fatal(err)
	}
	defer closeSource()
	b := mustBuild(t, source, Options{})
	if all := bytes.Join([][]byte{read(t, b.Disk), read(t, b.Key), read(t, b.Pins)}, nil); !bytes.Equal(first, all) {
		t.Error("standard input: other bytes than from a file")
	}
}

func TestSeed(t *testing.T) {
	one, two := seeded(t, 1), seeded(t, 2)
	if one.Key == two.Key || one.VolumeKey == two.VolumeKey || one.DiskUUID == two.DiskUUID || one.Salt == two.Salt {
		t.Error("two seeds give the same")
	}
	if again := seeded(t, 1); again.Key != one.Key || again.VolumeKey != one.VolumeKey || again.DiskUUID != one.DiskUUID {
		t.Error("one seed gives two disks")
	}
	if _, err := SeedReader(make([]byte, MinSeed-1)); err == nil {
		t.Error("got no error for a short seed")
	}
	one.Wipe()
	if one.Key != [32]byte{} || one.VolumeKey != [64]byte{} {
		t.Error("the keys are still there after Wipe")
	}
}

// TestVerifyFindsEveryRegion flips one bit in each part of a disk.
func TestVerifyFindsEveryRegion(t *testing.T) {
	b := mustBuild(t, tarSource(t, smallTar(t)), Options{})
	disk, key := read(t, b.Disk), read(t, b.Key)
	if err := verify(disk, key, b.pins); err != nil {
		t.Fatal(err)
	}
	payload, tree := int(b.pins.PayloadOffset), int(b.pins.PayloadOffset+b.pins.HashOffset)
	for _, c := range []struct {
		name string
		at   int
		want string
	}{
		{"binary header", 10, "parsing LUKS2 header"},
		{"JSON", 4200, "checksum does not match"},
		{"keyslot", 40000, "LUKS2 header has SHA-256"},
		{"unused header", payload - 1, "LUKS2 header has SHA-256"},
		{"first block", payload, "data block 0 "},
		{"second chunk", payload + chunkSize + 5*4096 + 77, "data block 133 "},
		{"last data block", tree - 1, fmt.Sprintf("data block %d ", b.pins.DataBlocks-1)},
		{"superblock", tree, "parsing dm-verity superblock"},
		{"filling of the superblock", tree + 4095, "not filled up with zeros"},
		{"top of the tree", tree + 4096, "hash block at byte"},
		{"end of the tree", len(disk) - 1, "data block "},
	} {
		t.Run(c.name, func(t *testing.T) {
			disk := bytes.Clone(disk)
			disk[c.at] ^= 0x10
			err := verify(disk, key, b.pins)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v, want one with %q", err, c.want)
			}
			if c.at > 32768 && !errors.Is(err, ErrMismatch) {
				t.Errorf("error %v does not match ErrMismatch", err)
			}
		})
	}
	if err := verify(disk[:len(disk)-1], key, b.pins); !errors.Is(err, ErrMismatch) {
		t.Errorf("cut off disk: got %v", err)
	}
	if err := verify(disk[:1000], key, b.pins); err == nil {
		t.Error("disk of 1000 bytes: got no error")
	}
	key[0] ^= 1
	if err := verify(disk, key, b.pins); !errors.Is(err, luks2.ErrWrongKey) {
		t.Errorf("wrong key: got %v", err)
	}
	key[0] ^= 1
	other := b.pins
	other.RootHash[5] ^= 1
	if err := verify(disk, key, other); !errors.Is(err, ErrMismatch) {
		t.Errorf("other root hash: got %v", err)
	}
}

// TestCompleteOrNothing: a build that fails, is interrupted, or finds one output
// there already, leaves its directory as it was.
func TestCompleteOrNothing(t *testing.T) {
	cancelled, cancel := context.WithCancel(context.Background())
	cancel()
	for _, c := range []struct {
		name string
		ctx  context.Context
		size uint64
		have string // file that exists before
		want error
	}{
		{"interrupted", cancelled, 0, "", context.Canceled},
		{"size too small", context.Background(), 4096, "", nil},
		{"disk exists", context.Background(), 0, "disk", os.ErrExist},
		{"key exists", context.Background(), 0, "key", os.ErrExist},
		{"pins exist", context.Background(), 0, "pins", os.ErrExist},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			if c.have != "" {
				if err := os.WriteFile(filepath.Join(dir, c.have), []byte("theirs"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			files := Files{Disk: filepath.Join(dir, "disk"), Key: filepath.Join(dir, "key"), Pins: filepath.Join(dir, "pins")}
			_, err := BuildFiles(c.ctx, files, tarSource(t, smallTar(t)), seeded(t, 1), Options{Size: c.size})
			if err == nil || c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("got error %v, want %v", err, c.want)
			}
			left, err := os.ReadDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range left {
				if f.Name() != c.have {
					t.Errorf("%s was left", f.Name())
				} else if got := read(t, filepath.Join(dir, c.have)); string(got) != "theirs" {
					t.Errorf("%s was changed", c.have)
				}
			}
		})
	}
}

// TestOutputsApart: with Force, no output takes the place of another, or of what
// is read.
func TestOutputsApart(t *testing.T) {
	b := mustBuild(t, tarSource(t, smallTar(t)), Options{})
	dir, oldKey := filepath.Dir(b.Disk), read(t, b.Key)
	before := map[string]string{b.Disk: string(read(t, b.Disk)), b.Key: string(oldKey), b.Pins: string(read(t, b.Pins))}
	backup := b.Disk + ".header-backup"
	for _, c := range []struct{ disk, key, pins, want string }{
		{dir + "/new", dir + "/new", dir + "/pins2", "two outputs have the name"},
		{dir + "/new", dir + "/key2", dir + "/./new", "two outputs have the name"},
		{dir + "/new", dir + "/same", dir + "/same", "two outputs have the name"},
		{b.Disk, b.Disk, dir + "/pins2", ""},
		{b.Disk, dir + "/key2", b.Disk, ""},
		{b.Key, dir + "/key2", dir + "/pins2", "would replace"},
		{dir + "/new", b.Key, dir + "/pins2", "would replace"},
		{dir + "/new", dir + "/key2", b.Pins, "would replace"},
		{dir, dir + "/key2", dir + "/pins2", "want a regular file"},
		{"", dir + "/key2", dir + "/pins2", "is empty"},
	} {
		files := Files{Disk: c.disk, Key: c.key, Pins: c.pins, Force: true, Keep: []string{b.Key, b.Pins}}
		if _, err := BuildFiles(context.Background(), files, tarSource(t, smallTar(t)), seeded(t, 1), Options{}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("building %v: got error %v, want one with %q", files, err, c.want)
		}
	}
	for _, c := range [][2]string{
		{b.Disk, dir + "/pins2"}, {dir + "/key2", b.Disk}, {dir + "/same", dir + "/same"},
		{b.Key, dir + "/pins2"}, {dir + "/key2", b.Pins}, {backup, dir + "/pins2"}, {dir + "/key2", backup},
	} {
		files := Files{Disk: b.Disk, Key: c[0], Pins: c[1], Force: true, Keep: []string{b.Key, b.Pins}}
		if _, err := Rekey(context.Background(), files, oldKey, b.pins, [32]byte{1}, rand.Reader); err == nil || errors.Is(err, os.ErrExist) {
			t.Errorf("rekeying with %v: got error %v", c, err)
		}
	}
	for name, want := range before {
		if got := string(read(t, name)); got != want {
			t.Errorf("%s was changed", name)
		}
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 3 {
		t.Errorf("got files %v (%v), want 3", left, err)
	}
}

// TestTruncatedInput: an input that ends too early fails the build.
func TestTruncatedInput(t *testing.T) {
	s := Source{finished: bytes.NewReader(make([]byte, 100000)), size: 200000, filesystem: pins.EROFS}
	dir := t.TempDir()
	_, err := BuildFiles(context.Background(), Files{Disk: dir + "/d", Key: dir + "/k", Pins: dir + "/p"}, s, seeded(t, 1), Options{})
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %v, want %v", err, io.ErrUnexpectedEOF)
	}
}

func TestKeyFile(t *testing.T) {
	b := mustBuild(t, tarSource(t, smallTar(t)), Options{})
	info, err := os.Stat(b.Key)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != 0o600 || info.Size() != 32 {
		t.Errorf("key file has mode %v and %d bytes", info.Mode(), info.Size())
	}
	p, err := pins.Decode(read(t, b.Pins))
	if err != nil {
		t.Fatal(err)
	}
	header := sha256.Sum256(read(t, b.Disk)[:p.PayloadOffset])
	if p.HeaderSHA256 != header {
		t.Errorf("header pin is %s, want %x", p.HeaderSHA256, header)
	}
}

func TestSize(t *testing.T) {
	b := mustBuild(t, tarSource(t, smallTar(t)), Options{Size: 64 << 20})
	disk := read(t, b.Disk)
	if len(disk) != 64<<20 {
		t.Errorf("disk has %d bytes", len(disk))
	}
	if err := verify(disk, read(t, b.Key), b.pins); err != nil {
		t.Error(err)
	}
	var stat syscall.Stat_t
	if err := syscall.Stat(b.Disk, &stat); err != nil {
		t.Fatal(err)
	}
	if used := stat.Blocks * 512; used > 16<<20 {
		t.Errorf("%d bytes are used for a disk that is mostly padding", used)
	}
}

func TestExtract(t *testing.T) {
	source := tarSource(t, smallTar(t))
	b := mustBuild(t, source, Options{})
	f, err := os.Open(b.Disk)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	d, err := OpenDisk(f, int64(len(read(t, b.Disk))))
	if err != nil {
		t.Fatal(err)
	}
	out, err := os.Create(filepath.Join(t.TempDir(), "fs"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if err := d.Verify(context.Background(), read(t, b.Key), b.pins, out, Options{}); err != nil {
		t.Fatal(err)
	}
	got := read(t, out.Name())
	// A finished filesystem goes in as it is, and has the same root hash.
	again, closeSource, err := Open(context.Background(), Input{Path: out.Name()})
	if err != nil {
		t.Fatal(err)
	}
	defer closeSource()
	if c := mustBuild(t, again, Options{}); c.pins.RootHash != b.pins.RootHash || c.pins.Filesystem != pins.EROFS {
		t.Errorf("got root hash %s of %s, want %s", c.pins.RootHash, c.pins.Filesystem, b.pins.RootHash)
	}
	if int64(len(got)) != source.Size() {
		t.Errorf("got %d bytes, want %d", len(got), source.Size())
	}
}

// TestBuildKeyTo passes the key on when the files are there, and takes them away
// when it is not taken.
func TestBuildKeyTo(t *testing.T) {
	dir := t.TempDir()
	files := Files{Disk: filepath.Join(dir, "disk"), Pins: filepath.Join(dir, "pins")}
	var got []byte
	taken := errors.New("nobody is there")
	files.KeyTo = writerFunc(func(b []byte) (int, error) {
		for _, name := range []string{files.Disk, files.Pins} {
			if _, err := os.Stat(name); err != nil {
				t.Error(err)
			}
		}
		got = bytes.Clone(b)
		return len(b), taken
	})
	secrets := seeded(t, 1)
	if _, err := BuildFiles(context.Background(), files, tarSource(t, smallTar(t)), secrets, Options{}); !errors.Is(err, taken) {
		t.Errorf("got error %v, want %v", err, taken)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("got files %v (%v), want none", left, err)
	}
	taken = nil
	if _, err := BuildFiles(context.Background(), files, tarSource(t, smallTar(t)), secrets, Options{}); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 2 || !bytes.Equal(got, secrets.Key[:]) {
		t.Errorf("got files %v (%v) and key %x, want two and %x", left, err, got, secrets.Key)
	}
}

type writerFunc func(b []byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }
