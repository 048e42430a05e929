package image

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/rootvouch/rootvouch/image/intake"
	"github.com/rootvouch/rootvouch/internal/needs"
)

func TestOpenCompressed(t *testing.T) {
	data := smallTar(t)
	want := tarSource(t, data)
	var gz, zs bytes.Buffer
	g := gzip.NewWriter(&gz)
	z, err := zstd.NewWriter(&zs)
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range []io.WriteCloser{g, z} {
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for name, packed := range map[string][]byte{"tar": data, "tar.gz": gz.Bytes(), "tar.zst": zs.Bytes()} {
		for _, in := range []Input{{Path: write(t, name, packed)}, {Path: "-", Stdin: bytes.NewReader(packed)}} {
			source, closeSource, err := Open(context.Background(), in)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			if source.Size() != want.Size() {
				t.Errorf("%s: %d bytes, want %d", name, source.Size(), want.Size())
			}
			closeSource()
		}
		if _, _, err := Open(context.Background(), Input{Path: write(t, name, packed[:len(packed)*2/3])}); err == nil {
			t.Errorf("%s cut off: got no error", name)
		}
	}
	for _, junk := range [][]byte{nil, []byte("hello"), make([]byte, 10000)} {
		if _, _, err := Open(context.Background(), Input{Path: write(t, "junk", junk)}); err == nil {
			t.Errorf("%d bytes of junk: got no error", len(junk))
		}
	}
}

// TestOpenStalled: nobody has to write or hang up for a build to end.
func TestOpenStalled(t *testing.T) {
	for name, before := range map[string]int{"at once": 0, "within the tar": 3000} {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close() // the reader stays open: its Read goes on
		if _, err := w.Write(smallTar(t)[:before]); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		time.AfterFunc(50*time.Millisecond, cancel)
		if _, _, err := Open(ctx, Input{Path: "-", Stdin: r}); !errors.Is(err, context.Canceled) {
			t.Errorf("stalled %s: got error %v, want %v", name, err, context.Canceled)
		}
		cancel()
	}
}

// TestOpenOldTar: before ustar a tar had no magic.
func TestOpenOldTar(t *testing.T) {
	old := tarOf(t, "dir/", "dir/file", "other")
	for at := 0; old[at] != 0; {
		header := old[at:][:intake.TarBlock]
		clear(header[257:]) // magic and all that came with it
		size, err := strconv.ParseInt(strings.Trim(string(header[124:136]), " \x00"), 8, 64)
		if err != nil {
			t.Fatal(err)
		}
		copy(header[148:156], "        ")
		sum := 0
		for _, c := range header {
			sum += int(c)
		}
		copy(header[148:], fmt.Sprintf("%06o\x00 ", sum))
		at += intake.TarBlock + (int(size)+intake.TarBlock-1)/intake.TarBlock*intake.TarBlock
	}
	for _, in := range []Input{{Path: write(t, "old.tar", old)}, {Path: "-", Stdin: bytes.NewReader(old)}} {
		_, closeSource, err := Open(context.Background(), in)
		if err != nil {
			t.Fatal(err)
		}
		closeSource()
	}
	old[0] ^= 1
	if _, _, err := Open(context.Background(), Input{Path: write(t, "bad.tar", old)}); err == nil || !strings.Contains(err.Error(), "neither a tar") {
		t.Errorf("wrong checksum: got error %v", err)
	}
}

// TestOpenZstdFrames: pzstd begins with a frame to be skipped; a window above
// what memory there is for it is refused in words.
func TestOpenZstdFrames(t *testing.T) {
	packed := func(options ...zstd.EOption) []byte {
		var out bytes.Buffer
		z, err := zstd.NewWriter(&out, options...)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := z.Write(smallTar(t)); err != nil {
			t.Fatal(err)
		}
		if err := z.Flush(); err != nil { // so that the frame does not know its size
			t.Fatal(err)
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}
	skipped := append([]byte("\x50\x2a\x4d\x18\x04\x00\x00\x00abcd"), packed()...)
	_, closeSource, err := Open(context.Background(), Input{Path: write(t, "p.tar.zst", skipped)})
	if err != nil {
		t.Fatal(err)
	}
	closeSource()
	wide := packed(zstd.WithWindowSize(2 * maxWindow))
	if _, _, err := Open(context.Background(), Input{Path: write(t, "w.tar.zst", wide)}); err == nil || !strings.Contains(err.Error(), "67108864 bytes") {
		t.Errorf("wide window: got error %v", err)
	}
}

// TestEmptyRoot: a directory that was not mounted, say, is no root.
func TestEmptyRoot(t *testing.T) {
	for name, in := range map[string]Input{
		"directory": {Path: t.TempDir()},
		"excluded":  {Path: write(t, "tar", smallTar(t)), Exclude: []string{"d?"}},
	} {
		if _, _, err := Open(context.Background(), in); err == nil || !strings.Contains(err.Error(), "no files") {
			t.Errorf("%s: got error %v", name, err)
		}
	}
}

// TestFinishedRefusals changes one field of real superblocks' layout.
func TestFinishedRefusals(t *testing.T) {
	ext4 := func(change func(sb []byte)) []byte {
		image := make([]byte, 64*4096)
		sb := image[ext4At:]
		copy(sb[0x38:], ext4Magic)
		sb[0x04], sb[0x18], sb[0x3a] = 64, 2, 1
		change(sb)
		return image
	}
	squash := func(change func(sb []byte)) []byte {
		image := make([]byte, 8192)
		copy(image, squashfsMagic)
		image[28], image[40] = 4, 200
		change(image)
		return image
	}
	erofs := func(change func(sb []byte)) []byte {
		image := make([]byte, 4*4096)
		sb := image[erofsAt:]
		copy(sb, erofsMagic)
		sb[0x0c], sb[0x24] = 12, 4
		change(sb)
		return image
	}
	for _, c := range []struct {
		name  string
		image []byte
		want  string // "" means taken
	}{
		{"ext4", ext4(func([]byte) {}), ""},
		{"ext4, 1024-byte blocks", ext4(func(sb []byte) { sb[0x18] = 0 }), "blocks of 1024 bytes, want 4096"},
		{"ext4, journal", ext4(func(sb []byte) { sb[0x60] = 4 }), "journal needs recovery"},
		{"ext4, journal device", ext4(func(sb []byte) { sb[0x60] = 8 }), "it is a journal"},
		{"ext4, not clean", ext4(func(sb []byte) { sb[0x3a] = 0 }), "s_state is 0x0"},
		{"ext4, errors", ext4(func(sb []byte) { sb[0x3a] = 3 }), "s_state is 0x3"},
		{"ext4, cut off", ext4(func(sb []byte) { sb[0x04] = 65 }), "the superblock says 266240 bytes, the file has 262144"},
		{"ext4, 64 bit", ext4(func(sb []byte) { sb[0x60] = 0x80; sb[0x150] = 1 }), "the superblock says 17592186306560 bytes"},
		{"squashfs", squash(func([]byte) {}), ""},
		{"squashfs 3", squash(func(sb []byte) { sb[28] = 3 }), "version 3.0, want 4.0"},
		{"squashfs, cut off", squash(func(sb []byte) { sb[42] = 1 }), "the superblock says"},
		{"EROFS", erofs(func([]byte) {}), ""},
		{"EROFS, 512-byte blocks", erofs(func(sb []byte) { sb[0x0c] = 9 }), "blocks of 2^9 bytes"},
		{"EROFS, devices", erofs(func(sb []byte) { sb[0x50] = 8 }), "further devices"},
		{"EROFS, cut off", erofs(func(sb []byte) { sb[0x24] = 5 }), "the superblock says 20480 bytes"},
		{"EROFS, empty", erofs(func(sb []byte) { sb[0x24] = 0 }), "the superblock says 0 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, closeSource, err := Open(context.Background(), Input{Path: write(t, "image", c.image)})
			if err == nil {
				closeSource()
			}
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v, want one with %q", err, c.want)
			}
		})
	}
	if _, _, err := Open(context.Background(), Input{Path: write(t, "image", ext4(func([]byte) {})), Exclude: []string{"*"}}); err == nil {
		t.Error("excluding from a finished filesystem: got no error")
	}
}

// TestInteropExt4: a real ext4 goes in and comes out as it is.
func TestInteropExt4(t *testing.T) {
	mkfs := needs.Tool(t, "mkfs.ext4")
	path := write(t, "ext4", nil)
	if out, err := exec.Command(mkfs, "-q", "-b", "4096", path, "16M").CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v: %s", err, out)
	}
	source, closeSource, err := Open(context.Background(), Input{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	defer closeSource()
	b := mustBuild(t, source, Options{})
	if got := accepted(t, b); !bytes.Equal(got, read(t, path)) {
		t.Error("the filesystem changed on its way")
	}
}
