package intake

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	reader "github.com/erofs/go-erofs"

	"github.com/rootvouch/rootvouch/image/rootfs"
)

// entry is one file of a tar under construction.
type entry struct {
	tar.Header
	data string
}

// fileOf, dirOf and linkOf are entries with usual values.
func fileOf(name, data string) entry {
	return entry{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, ModTime: time.Unix(1e9, 0)}, data}
}

func dirOf(name string) entry {
	return entry{tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755, ModTime: time.Unix(1e9, 0)}, ""}
}

func linkOf(name, target string) entry {
	return entry{tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target}, ""}
}

func (e entry) with(change func(*tar.Header)) entry {
	e.PAXRecords = maps.Clone(e.PAXRecords)
	if e.PAXRecords == nil {
		e.PAXRecords = map[string]string{}
	}
	change(&e.Header)
	return e
}

func makeTar(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, e := range entries {
		h := e.Header
		h.Size = int64(len(e.data))
		if len(h.PAXRecords) > 0 || h.ModTime.Nanosecond() != 0 {
			h.Format = tar.FormatPAX
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func readTree(t testing.TB, data []byte) *rootfs.Tree {
	t.Helper()
	tree := rootfs.New()
	if err := (&Reader{Tree: tree}).ReadTar(context.Background(), bytes.NewReader(data), int64(len(data))); err != nil {
		t.Fatal(err)
	}
	return tree
}

func readDir(t testing.TB, dir string) *rootfs.Tree {
	t.Helper()
	tree := rootfs.New()
	opened, err := (&Reader{Tree: tree}).ReadDir(context.Background(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { opened.Close() })
	return tree
}

// mount lets the kernel mount an image, or skips the test.
func mount(t testing.TB, image string) (dir string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: not root, cannot mount")
	}
	dir = t.TempDir()
	if out, err := exec.Command("mount", "-t", "erofs", "-o", "loop,ro", image, dir).CombinedOutput(); err != nil {
		t.Skipf("SKIPPED: cannot mount: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("unmounting: %v: %s", err, out)
		}
	})
	return dir
}

// writeImage writes the tree's filesystem into a file.
func writeImage(t testing.TB, tree *rootfs.Tree) string {
	t.Helper()
	plan, err := tree.Plan()
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(t.TempDir(), "image"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := plan.WriteTo(f); err != nil {
		t.Fatal(err)
	}
	if info, err := f.Stat(); err != nil || info.Size() != plan.Size {
		t.Fatalf("image has %d bytes, want %d as planned (%v)", info.Size(), plan.Size, err)
	}
	return f.Name()
}

// shown is what a reader of the filesystem sees of one name.
type shown struct {
	Mode     fs.FileMode
	UID, GID uint32
	Time     int64 // nanoseconds since 1970
	Rdev     uint32
	Nlink    int
	Inode    int64
	Data     string // contents or target
	Xattrs   map[string]string
}

// readBack reads an image with go-erofs.
func readBack(t testing.TB, image string) map[string]shown {
	t.Helper()
	f, err := os.Open(image)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	filesystem, err := reader.Open(f)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]shown{}
	err = fs.WalkDir(filesystem, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		s := info.Sys().(*reader.Stat)
		got := shown{Mode: mode(info.Mode()), UID: s.UID, GID: s.GID, Time: int64(s.Mtime)*1e9 + int64(s.MtimeNs),
			Rdev: s.Rdev, Nlink: s.Nlink, Inode: s.Ino}
		if len(s.Xattrs) > 0 {
			got.Xattrs = s.Xattrs
		}
		switch {
		case info.Mode().IsRegular():
			data, err := fs.ReadFile(filesystem, name)
			if err != nil {
				return err
			}
			got.Data = string(data)
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := fs.ReadLink(filesystem, name)
			if err != nil {
				return err
			}
			got.Data = target
		}
		all[name] = got
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// mode cleans what go-erofs 0.3.1 shows: Go's type bits beside raw Unix ones.
func mode(raw fs.FileMode) fs.FileMode {
	m := raw & (fs.ModeType | fs.ModePerm)
	for bit, to := range map[fs.FileMode]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if raw&bit != 0 {
			m |= to
		}
	}
	return m
}
