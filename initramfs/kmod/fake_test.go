package kmod

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

const fakeVersion = "6.12.1-fake"

// fakeModule makes an ELF file of that type with one section, .modinfo, of these
// records.
func fakeModule(kind elf.Type, records ...string) []byte {
	info := []byte(strings.Join(records, "\x00") + "\x00")
	names := []byte("\x00.modinfo\x00.shstrtab\x00")
	const headerSize = 64
	infoAt := uint64(headerSize)
	namesAt := infoAt + uint64(len(info))
	sectionsAt := namesAt + uint64(len(names))
	var buf bytes.Buffer
	put := func(v any) {
		if err := binary.Write(&buf, binary.LittleEndian, v); err != nil {
			panic(err)
		}
	}
	h := elf.Header64{Type: uint16(kind), Machine: uint16(elf.EM_X86_64), Version: 1, Ehsize: headerSize,
		Shoff: sectionsAt, Shentsize: 64, Shnum: 3, Shstrndx: 2}
	copy(h.Ident[:], "\x7fELF\x02\x01\x01")
	put(h)
	buf.Write(info)
	buf.Write(names)
	put(elf.Section64{})
	put(elf.Section64{Name: 1, Type: uint32(elf.SHT_PROGBITS), Off: infoAt, Size: uint64(len(info)), Addralign: 1})
	put(elf.Section64{Name: 10, Type: uint32(elf.SHT_STRTAB), Off: namesAt, Size: uint64(len(names)), Addralign: 1})
	return buf.Bytes()
}

// module makes a good module with these additional records.
func module(name string, records ...string) []byte {
	return fakeModule(elf.ET_REL, append([]string{"name=" + name, "vermagic=" + fakeVersion + " SMP preempt"}, records...)...)
}

// files :: path -> contents
type files map[string][]byte

// fakeKernel is a module directory: a needs b, b softly c first and d after, and
// hard e and the built-in x.
func fakeKernel(t testing.TB) files {
	return files{
		"modules.builtin":         []byte("kernel/x.ko\nkernel/y-y.ko\n"),
		"modules.builtin.modinfo": []byte("x.license=GPL\x00x.alias=crypto-x\x00"),
		"kernel/a.ko":             module("a", "depends=b"),
		"kernel/b.ko.xz":          pack(t, ".xz", module("b", "depends=e,x", "softdep=pre: c crypto-x post: d gone")),
		"kernel/c.ko.zst":         pack(t, ".zst", module("c", "depends=")),
		"kernel/d.ko.gz":          pack(t, ".gz", module("d", "depends=b")),
		"kernel/e-e.ko":           module("e_e"),
		"kernel/e.ko":             module("e"),
		"kernel/unrelated.ko":     []byte("no module"),
	}
}

// under puts files below a directory.
func (f files) under(dir string) files {
	out := files{}
	for name, data := range f {
		out[dir+"/"+name] = data
	}
	return out
}

func (f files) writeTo(t testing.TB, dir string) {
	t.Helper()
	for name, data := range f {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// pack compresses data as a file with that suffix would be.
func pack(t testing.TB, suffix string, data []byte) []byte {
	t.Helper()
	var buf bytes.Buffer
	var w io.WriteCloser
	var err error
	switch suffix {
	case "":
		return data
	case ".xz":
		w, err = xz.NewWriter(&buf)
	case ".zst":
		w, err = zstd.NewWriter(&buf)
	case ".gz":
		w = gzip.NewWriter(&buf)
	default:
		t.Fatalf("suffix is %q", suffix)
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// deb makes a Debian package of files.
func (f files) deb(t testing.TB, suffix string) []byte {
	t.Helper()
	var data bytes.Buffer
	w := tar.NewWriter(&data)
	for name, content := range f {
		if err := w.WriteHeader(&tar.Header{Name: "./" + name, Mode: 0o644, Size: int64(len(content)), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return ar("debian-binary", []byte("2.0\n"), "control.tar.xz", []byte("odd"), "data.tar"+suffix, pack(t, suffix, data.Bytes()))
}

// ar makes an archive of alternating names (strings) and contents.
func ar(members ...any) []byte {
	out := []byte(arMagic)
	for i := 0; i < len(members); i += 2 {
		name, data := members[i].(string), members[i+1].([]byte)
		out = fmt.Appendf(out, "%-16s%-12d%-6d%-6d%-8s%-10d%s", name, 0, 0, 0, "100644", len(data), arFileMagic)
		out = append(out, data...)
		if len(data)%2 != 0 {
			out = append(out, '\n')
		}
	}
	return out
}
