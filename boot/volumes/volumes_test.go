package volumes

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rootvouch/rootvouch/boot/bootconfig"
	"github.com/rootvouch/rootvouch/boot/bootlog"
	"github.com/rootvouch/rootvouch/kms/keyapi"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/volume"
)

// memory is a disk in memory.
type memory []byte

func (m memory) ReadAt(b []byte, at int64) (int, error) { return bytes.NewReader(m).ReadAt(b, at) }
func (m memory) Sync() error                            { return nil }
func (m memory) WriteAt(b []byte, at int64) (int, error) {
	if at+int64(len(b)) > int64(len(m)) {
		return 0, errors.New("write behind the end")
	}
	return copy(m[at:], b), nil
}

func none(string, uint64, uint64) {}

// found returns a volume of 16 MiB that was formatted and closed as generation 3.
func found(t *testing.T) (*Found, memory) {
	t.Helper()
	layout, err := volume.LayoutOf(volume.MinSize)
	if err != nil {
		t.Fatal(err)
	}
	m := make(memory, layout.Size)
	if err := volume.Format(context.Background(), m, layout, make([]byte, 96), func(done, size uint64) {}); err != nil {
		t.Fatal(err)
	}
	digest, err := volume.Digest(context.Background(), m, layout, func(done, size uint64) {})
	if err != nil {
		t.Fatal(err)
	}
	v := &keyapi.Volume{Found: keyapi.FoundClosed, Generation: 3, Digest: digest}
	return &Found{Layout: layout, Released: &keyapi.Released{Volume: v}}, m
}

// TestPrepare: the key server's state and the disk's contents decide whether a
// volume is opened. PID 1 writes only to a new volume.
func TestPrepare(t *testing.T) {
	damage := func(m memory) { m[len(m)-1-(1<<20)] ^= 1; m[volume.Offset+volume.SuperblockSize+9] ^= 1 }
	for _, c := range []struct {
		name   string
		change func(v *keyapi.Volume, m memory)
		want   bootlog.Freshness
		err    string
	}{
		{"closed", func(v *keyapi.Volume, m memory) {}, bootlog.Fresh, ""},
		{"closed and changed", func(v *keyapi.Volume, m memory) { damage(m) }, "", "rolled back, exchanged or damaged"},
		{"closed, changed, and unclean ones accepted", func(v *keyapi.Volume, m memory) { damage(m); v.AcceptUnclean = true }, "", "rolled back, exchanged or damaged"},
		{"unclean and unchanged", func(v *keyapi.Volume, m memory) { v.Found = keyapi.FoundUnclean }, bootlog.Fresh, ""},
		{"unclean", func(v *keyapi.Volume, m memory) { v.Found = keyapi.FoundUnclean; damage(m) }, "", "its record refuses that"},
		{"unclean and accepted", func(v *keyapi.Volume, m memory) { v.Found, v.AcceptUnclean = keyapi.FoundUnclean, true; damage(m) }, bootlog.Unclean, ""},
		{"never closed", func(v *keyapi.Volume, m memory) {
			v.Found, v.Generation, v.Digest = keyapi.FoundUnclean, 0, pins.Digest{}
		}, "", "its record refuses that"},
		{"never closed and accepted", func(v *keyapi.Volume, m memory) {
			v.Found, v.Generation, v.Digest, v.AcceptUnclean = keyapi.FoundUnclean, 0, pins.Digest{}, true
		}, bootlog.Unclean, ""},
		{"the operator's word", func(v *keyapi.Volume, m memory) { v.Found = keyapi.FoundAccepted; damage(m) }, bootlog.Accepted, ""},
		{"the operator's word, and another superblock", func(v *keyapi.Volume, m memory) { v.Found = keyapi.FoundAccepted; m[volume.Offset] ^= 1 }, "", "superblock"},
		{"zeros where it was closed", func(v *keyapi.Volume, m memory) { clear(m) }, "", "superblock"},
		{"zeros and unclean accepted", func(v *keyapi.Volume, m memory) { v.Found, v.AcceptUnclean = keyapi.FoundUnclean, true; clear(m) }, "", "superblock"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, m := found(t)
			c.change(f.Released.Volume, m)
			before := slices.Clone(m)
			got, err := f.prepareOn(t.Context(), m, make([]byte, 96), none)
			if got != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Errorf("got %q, %v, want %q, error with %q", got, err, c.want, c.err)
			}
			if !bytes.Equal(before, m) {
				t.Error("something was written")
			}
		})
	}
	t.Run("new", func(t *testing.T) {
		f, m := found(t)
		f.Released.Volume = &keyapi.Volume{Found: keyapi.FoundNew}
		want := slices.Clone(m)
		clear(m)
		if got, err := f.prepareOn(t.Context(), m, make([]byte, 96), none); got != bootlog.New || err != nil || !bytes.Equal(m, want) {
			t.Errorf("got %q, %v", got, err)
		}
	})
}

func TestMountsOf(t *testing.T) {
	const mountinfo = `22 1 0:20 / / rw - overlay rootvouch rw
30 22 254:3 / /oldroot/data rw,nodev shared:3 - ext4 /dev/dm-3 rw
31 30 254:3 /sub /oldroot/a\040b rw - ext4 /dev/dm-3 rw
32 22 0:44 / /oldroot/btrfs rw - btrfs /dev/dm-3 rw
33 22 254:4 / /oldroot/other rw - xfs /dev/dm-4 rw
`
	want := []string{"/oldroot/data", "/oldroot/a b", "/oldroot/btrfs"}
	if diff := cmp.Diff(want, mountsOf(mountinfo, "254:3", "/dev/dm-3")); diff != "" {
		t.Error(diff)
	}
}

// TestMakeDirectories: no link in a root leads the mount point, or mkfs's /dev, out
// of the root.
func TestMakeDirectories(t *testing.T) {
	root := t.TempDir()
	if err := os.Symlink("/tmp", filepath.Join(root, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{"/var/lib/data": "", "/link/data": "/link is L", "/file": "/file is "} {
		err := makeDirectories(root, path)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want an error with %q", path, err, want)
		}
	}
	if info, err := os.Lstat(filepath.Join(root, "var/lib/data")); err != nil || !info.IsDir() {
		t.Errorf("the mount point is not there: %v", err)
	}
}

// TestMkfsOf: mkfs comes from the root. A link cannot lead to a program outside,
// and a file that is not executable is no mkfs.
func TestMkfsOf(t *testing.T) {
	root := t.TempDir()
	outside := filepath.Join(t.TempDir(), "mkfs.ext4")
	for path, mode := range map[string]os.FileMode{outside: 0o755, filepath.Join(root, "usr/sbin/mke2fs"): 0o755, filepath.Join(root, "usr/bin/mkfs.xfs"): 0o644} {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("abc"), mode); err != nil {
			t.Fatal(err)
		}
	}
	link := filepath.Join(root, "usr/sbin/mkfs.ext4")
	for target, want := range map[string]string{"mke2fs": "", "/usr/sbin/mke2fs": "", outside: "no mkfs.ext4", "../../../../../../../../" + outside: "no mkfs.ext4"} {
		os.Remove(link)
		if err := os.Symlink(target, link); err != nil {
			t.Fatal(err)
		}
		program, sum, err := mkfsOf(root, bootconfig.Ext4)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("a link to %s: got %v, want an error with %q", target, err, want)
		}
		if err == nil && (program != "/usr/sbin/mkfs.ext4" || sum != sha256.Sum256([]byte("abc"))) {
			t.Errorf("got %s, %s", program, sum)
		}
	}
	if program, _, err := mkfsOf(root, bootconfig.XFS); err == nil {
		t.Errorf("got %s, which is no program, want an error", program)
	}
}

func TestState(t *testing.T) {
	want := []*Opened{{UUID: pins.UUID{1}, Disk: "vdb", Number: "254:16", Size: 1 << 30, MountPoint: "/data", Generation: 3, Freshness: bootlog.Fresh, Holder: keyapi.Holder{2}, CommitKey: pins.Digest{3}}}
	got, err := Decode(Encode(want))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if _, err := Decode([]byte(`[{"uuid":""}]`)); err == nil {
		t.Error("a state without its members is decoded")
	}
}
