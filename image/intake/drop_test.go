package intake

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rootvouch/rootvouch/image/erofs"
	"github.com/rootvouch/rootvouch/image/rootfs"
)

// TestDrops: what a tree cannot keep is named so that it can be left out, and then
// the rest is kept.
func TestDrops(t *testing.T) {
	pax := func(record, value string) entry {
		return fileOf("f", "").with(func(h *tar.Header) {
			h.PAXRecords[record] = value
			h.PAXRecords["SCHILY.xattr.user.kept"] = "yes"
		})
	}
	for _, c := range []struct {
		name       string
		entry      entry
		xattr, pax string // what NotKept names
		drop       Reader
	}{
		{"attribute", pax("SCHILY.xattr.system.nfs4_acl", "x"), "system.nfs4_acl", "", Reader{DropXattrs: []string{"system.nfs4_acl"}}},
		{"attribute by pattern", pax("SCHILY.xattr.system.nfs4_acl", "x"), "system.nfs4_acl", "", Reader{DropXattrs: []string{"system.*"}}},
		{"record", pax("SUN.holesdata", "x"), "", "SUN.holesdata", Reader{DropPAX: []string{"SUN.*"}}},
		{"ACL with a name", pax("SCHILY.acl.access", "user::rw-,user:alice:r--"), "", "SCHILY.acl.access", Reader{DropPAX: []string{"SCHILY.acl.*"}}},
		{"two values", pax("RHT.security.selinux", "a").with(func(h *tar.Header) { h.PAXRecords["SCHILY.xattr.security.selinux"] = "b\x00" }),
			"security.selinux", "", Reader{DropXattrs: []string{"security.selinux"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			data := makeTar(t, c.entry)
			read := func(r Reader) (*rootfs.Tree, error) {
				r.Tree = rootfs.New()
				err := r.ReadTar(context.Background(), bytes.NewReader(data), int64(len(data)))
				if err == nil {
					err = r.Check()
				}
				return r.Tree, err
			}
			var kept *NotKept
			if _, err := read(Reader{}); !errors.As(err, &kept) || kept.Xattr != c.xattr || kept.PAX != c.pax {
				t.Errorf("got error %v, want one for %q%q", err, c.xattr, c.pax)
			}
			tree, err := read(c.drop)
			if err != nil {
				t.Fatal(err)
			}
			want, err := erofs.EncodeXattrs(map[string]string{"user.kept": "yes"})
			if err != nil {
				t.Fatal(err)
			}
			if n, err := tree.Lookup("f"); err != nil || n.Xattrs() != want {
				t.Errorf("got attributes %q, error %v, want %q", n.Xattrs(), err, want)
			}
			c.drop.DropPAX = append(c.drop.DropPAX, "no.such")
			if _, err := read(c.drop); err == nil || !strings.Contains(err.Error(), `pattern "no.such" matches no PAX record`) {
				t.Errorf("a pattern for nothing: got error %v", err)
			}
		})
	}
}

// TestMeaningless: what means nothing to a VM is no reason to refuse.
func TestMeaningless(t *testing.T) {
	data := makeTar(t,
		entry{tar.Header{Typeflag: 'V', Name: "backup of Monday"}, ""},
		entry{tar.Header{Typeflag: 'D', Name: "d/", Mode: 0o755}, "Yf\x00\x00"},
		entry{tar.Header{Typeflag: tar.TypeCont, Name: "d/f", Mode: 0o644}, "contiguous"},
		fileOf("apple", "a").with(func(h *tar.Header) { h.PAXRecords["LIBARCHIVE.xattr.com.apple.quarantine"] = "YQ" }),
		fileOf("btrfs", "b").with(func(h *tar.Header) { h.PAXRecords["SCHILY.xattr.btrfs.compression"] = "zstd" }),
		fileOf("alpine", "c").with(func(h *tar.Header) { h.PAXRecords["APK-TOOLS.checksum.SHA1"] = "00" }),
		fileOf("windows", "d").with(func(h *tar.Header) { h.PAXRecords["MSWINDOWS.fileattr"] = "32" }),
	)
	got := flatten(t, readTree(t, data))
	for name, want := range map[string]string{"d/f": "contiguous", "apple": "a", "btrfs": "b", "alpine": "c", "windows": "d"} {
		if f, ok := got[name]; !ok || f.Data != want || f.Xattrs != "" {
			t.Errorf("%s: got %+v", name, f)
		}
	}
	if len(got) != 7 {
		t.Errorf("got %d names, want 7", len(got))
	}
}

// TestMounts: what the running kernel makes up is left out, what has files is
// kept, and both are told.
func TestMounts(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: not root, cannot mount")
	}
	dir := t.TempDir()
	for name, kind := range map[string]string{"proc": "proc", "sys": "sysfs", "dev": "tmpfs", "srv": "tmpfs"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
		mounted := filepath.Join(dir, name)
		if out, err := exec.Command("mount", "-t", kind, kind, mounted).CombinedOutput(); err != nil {
			t.Skipf("SKIPPED: cannot mount: %v: %s", err, out)
		}
		t.Cleanup(func() {
			if out, err := exec.Command("umount", mounted).CombinedOutput(); err != nil {
				t.Errorf("unmounting: %v: %s", err, out)
			}
		})
	}
	for _, name := range []string{"dev/null", "srv/data"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r := &Reader{Tree: rootfs.New()}
	opened, err := r.ReadDir(context.Background(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer opened.Close()
	got := map[Mount]bool{}
	for _, m := range r.Mounts() {
		got[m] = true
	}
	for _, want := range []Mount{{"proc", "proc", true}, {"sys", "sysfs", true}, {"dev", "tmpfs", true}, {"srv", "tmpfs", false}} {
		if !got[want] {
			t.Errorf("got mounts %v, want %v among them", got, want)
		}
	}
	count := 0
	r.Tree.Root().Walk(func(rootfs.Node) bool { count++; return true })
	if count != 6 { // the root, four directories, and a file of srv
		t.Errorf("got %d files, want 6", count)
	}
}
