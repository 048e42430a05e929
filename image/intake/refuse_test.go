package intake

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/rootvouch/rootvouch/image/erofs"
	"github.com/rootvouch/rootvouch/image/rootfs"
	"github.com/rootvouch/rootvouch/internal/needs"
)

// TestRefuses: each is refused with its own error, and none is dropped.
func TestRefuses(t *testing.T) {
	pax := func(record, value string) entry {
		return fileOf("f", "").with(func(h *tar.Header) { h.PAXRecords[record] = value })
	}
	for _, c := range []struct {
		name    string
		entries []entry
		want    string
	}{
		{"parent", []entry{fileOf("a/../b", "")}, `contains ".."`},
		{"long name", []entry{fileOf(strings.Repeat("n", 256), "")}, "256 bytes, want at most 255"},
		{"below a file", []entry{fileOf("a", ""), fileOf("a/b", "")}, `"a" is not a directory`},
		{"file over a directory", []entry{fileOf("a/b", ""), fileOf("a", "")}, "replaces a directory that is not empty"},
		{"root is a file", []entry{{tar.Header{Typeflag: tar.TypeSymlink, Name: "./", Linkname: "x"}, ""}}, "root is not a directory"},
		{"link to nothing", []entry{linkOf("a", "b")}, `hard link to "b": file does not exist`},
		{"link to a directory", []entry{dirOf("b"), linkOf("a", "b")}, "hard link to the directory"},
		{"long symbolic link", []entry{{tar.Header{Typeflag: tar.TypeSymlink, Name: "a", Linkname: strings.Repeat("x", 4096)}, ""}}, "4096 bytes, want 1 to 4095"},
		{"wide device", []entry{{tar.Header{Typeflag: tar.TypeChar, Name: "a", Devmajor: 4096}, ""}}, "device 4096:0"},
		{"user ID", []entry{fileOf("a", "").with(func(h *tar.Header) { h.Uid = 1 << 32; h.PAXRecords["comment"] = "" })}, "uid is 4294967296"},
		{"type", []entry{{tar.Header{Typeflag: 'M', Name: "rest"}, ""}}, "several volumes"},
		{"unknown type", []entry{{tar.Header{Typeflag: 'Y', Name: "odd"}, ""}}, `entry of type 'Y' cannot be kept`},
		{"attribute of another namespace", []entry{pax("SCHILY.xattr.selinux.x", "x")}, `attribute "selinux.x" cannot be kept`},
		{"system attribute", []entry{pax("SCHILY.xattr.system.nfs4_acl", "x")}, `attribute "system.nfs4_acl" cannot be kept`},
		{"long attribute", []entry{pax("SCHILY.xattr.user.a", strings.Repeat("x", 1<<16))}, "value of 65536 bytes"},
		{"too many attributes", []entry{fileOf("f", "").with(func(h *tar.Header) {
			for _, c := range "abc" {
				h.PAXRecords["SCHILY.xattr.user."+string(c)] = strings.Repeat("x", 60000)
			}
		})}, "attributes have 180024 bytes"},
		{"two values", []entry{pax("SCHILY.xattr.security.selinux", "a\x00").with(func(h *tar.Header) { h.PAXRecords["RHT.security.selinux"] = "b" })}, "two values"},
		{"unknown record", []entry{pax("SUN.holesdata", " 1 2")}, `PAX record "SUN.holesdata" cannot be kept`},
		{"NFSv4 ACL", []entry{pax("SCHILY.acl.ace", "x")}, `PAX record "SCHILY.acl.ace" cannot be kept`},
		{"ACL with a name", []entry{pax("SCHILY.acl.access", "user::rw-,user:alice:r--")}, `"alice" has no number`},
		{"global record", []entry{{tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"uid": "7"}}, ""}}, `PAX record "uid" cannot be kept: it is global`},
	} {
		t.Run(c.name, func(t *testing.T) {
			data := makeTar(t, c.entries...)
			err := (&Reader{Tree: rootfs.New()}).ReadTar(context.Background(), bytes.NewReader(data), int64(len(data)))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v, want one with %q", err, c.want)
			}
		})
	}
}

func TestTarCutOffOrContinued(t *testing.T) {
	whole := makeTar(t, fileOf("a", "a"), fileOf("b", strings.Repeat("b", 1000)))
	for _, c := range []struct {
		name string
		data []byte
		want string
	}{
		{"no marker", whole[:len(whole)-1024], "without an end-of-archive marker"},
		{"half a marker", whole[:len(whole)-512], "without an end-of-archive marker"},
		{"in data", whole[:512+512+512+700], "unexpected EOF"},
		{"second archive", append(slices.Clone(whole), whole...), "data follows the end-of-archive marker"},
		{"empty", nil, "without an end-of-archive marker"},
	} {
		t.Run(c.name, func(t *testing.T) {
			tree := rootfs.New()
			err := (&Reader{Tree: tree}).ReadTar(context.Background(), bytes.NewReader(c.data), int64(len(c.data)))
			if err == nil {
				var plan *rootfs.Plan
				if plan, err = tree.Plan(); err == nil {
					_, err = plan.WriteTo(io.Discard)
				}
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v, want one with %q", err, c.want)
			}
		})
	}
}

// TestSmallInputsOfLargeTrees: a few bytes cannot ask for sizes that overflow, nor
// for names that take more memory than they have bytes.
func TestSmallInputsOfLargeTrees(t *testing.T) {
	gnutar := needs.Tool(t, "tar")
	dir := t.TempDir()
	writeSparse(t, filepath.Join(dir, "large"), 1<<40, nil)
	data, err := exec.Command(gnutar, "--format=gnu", "-S", "-C", dir, "-cf", "-", "large").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int64{1<<50 + 1, 1 << 60, 1<<63 - 4096, 1<<63 - 1} {
		regular := rootfs.File{Mode: erofs.TypeRegular, Size: size, Content: &dirFiles{}}
		if err := rootfs.New().Add("large", regular); err == nil || !strings.Contains(err.Error(), "want at most") {
			t.Errorf("file of %d bytes: got %v", size, err)
		}
		// The old GNU header: where its map ends, and the size of the file.
		for _, field := range []int{386, 483} {
			copy(data[field:field+12], "\x80\x00\x00\x00")
			binary.BigEndian.PutUint64(data[field+4:], uint64(size))
		}
		copy(data[148:156], "        ")
		sum := 0
		for _, c := range data[:TarBlock] {
			sum += int(c)
		}
		copy(data[148:156], fmt.Sprintf("%06o\x00 ", sum))
		if err := (&Reader{Tree: rootfs.New()}).ReadTar(context.Background(), bytes.NewReader(data), int64(len(data))); err == nil || !strings.Contains(err.Error(), "want at most") {
			t.Errorf("tar with a file of %d bytes: got %v", size, err)
		}
	}
	deep := strings.Repeat("d/", 1<<15)
	if err := rootfs.New().Add(deep+"f", rootfs.File{Mode: erofs.TypeFIFO}); err == nil {
		t.Error("a name of more than 64 KiB was taken")
	}
	tree := rootfs.New()
	if err := tree.Add(deep[:len(deep)-2]+"f", rootfs.File{Mode: erofs.TypeFIFO}); err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := tree.Plan(); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > 64<<20 {
		t.Errorf("a name %d directories deep took %d bytes to lay out", 1<<15, got)
	}
}
