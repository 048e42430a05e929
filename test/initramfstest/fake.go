// Package initramfstest makes small but real kernel trees, packages, programs and
// certificates.
package initramfstest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// Version is the kernel version of all trees and packages here.
const Version = "6.12.1-fake"

// ELF makes an ELF file of that type with one section, .modinfo, of these records.
func ELF(kind elf.Type, records ...string) []byte {
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

// Module makes a good module with these additional records.
func Module(name string, records ...string) []byte {
	return ELF(elf.ET_REL, append([]string{"name=" + name, "vermagic=" + Version + " SMP preempt"}, records...)...)
}

// Files :: path -> contents
type Files map[string][]byte

// Under puts the files below a directory.
func (f Files) Under(dir string) Files {
	out := Files{}
	for name, data := range f {
		out[dir+"/"+name] = data
	}
	return out
}

// WriteTo writes the files below a directory.
func (f Files) WriteTo(t testing.TB, dir string) {
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

// Pack compresses data by the compression of a file suffix.
func Pack(t testing.TB, suffix string, data []byte) []byte {
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

// Deb makes a Debian package whose data.tar is compressed as the suffix says.
// control holds the lines of its control file.
func (f Files) Deb(t testing.TB, suffix string, control ...string) []byte {
	t.Helper()
	about := Files{"control": []byte(strings.Join(control, "\n") + "\n")}
	return AR("debian-binary", []byte("2.0\n"), "control.tar.xz", Pack(t, ".xz", about.Tar(t, true)), "data.tar"+suffix, Pack(t, suffix, f.Tar(t, true)))
}

// Tar makes a tar, with its end-of-archive marker or without.
func (f Files) Tar(t testing.TB, end bool) []byte {
	t.Helper()
	var data bytes.Buffer
	w := tar.NewWriter(&data)
	for _, name := range slices.Sorted(maps.Keys(f)) {
		if err := w.WriteHeader(&tar.Header{Name: "./" + name, Mode: 0o644, Size: int64(len(f[name])), Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(f[name]); err != nil {
			t.Fatal(err)
		}
	}
	finish := w.Flush
	if end {
		finish = w.Close
	}
	if err := finish(); err != nil {
		t.Fatal(err)
	}
	return data.Bytes()
}

// RPM makes an RPM package whose payload is compressed as the suffix says. Its lead
// and its signatures are empty.
func (f Files) RPM(t testing.TB, suffix, name string, requires ...string) []byte {
	t.Helper()
	header := func(tags map[uint32][]string) []byte {
		var index, store []byte
		for _, tag := range slices.Sorted(maps.Keys(tags)) {
			kind := uint32(8) // RPM_STRING_ARRAY_TYPE
			for _, v := range []uint32{tag, kind, uint32(len(store)), uint32(len(tags[tag]))} {
				index = binary.BigEndian.AppendUint32(index, v)
			}
			store = append(store, strings.Join(tags[tag], "\x00")+"\x00"...)
		}
		out := []byte("\x8e\xad\xe8\x01\x00\x00\x00\x00")
		out = binary.BigEndian.AppendUint32(out, uint32(len(index)/16))
		out = binary.BigEndian.AppendUint32(out, uint32(len(store)))
		return append(append(out, index...), store...)
	}
	out := append([]byte("\xed\xab\xee\xdb"), make([]byte, 92)...)
	out = append(out, header(map[uint32][]string{1: {"odd"}})...) // 4 bytes, so 4 follow
	out = append(out, 0, 0, 0, 0)
	out = append(out, header(map[uint32][]string{1000: {name}, 1049: requires})...)
	var payload bytes.Buffer
	entry := func(name string, mode int, data []byte) {
		fmt.Fprintf(&payload, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x", 1, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0)
		payload.WriteString(name + "\x00")
		payload.Write(make([]byte, -payload.Len()&3))
		payload.Write(data)
		payload.Write(make([]byte, -payload.Len()&3))
	}
	entry("./usr", 0o40755, nil)
	for _, name := range slices.Sorted(maps.Keys(f)) {
		entry("./"+name, 0o100644, f[name])
	}
	entry("TRAILER!!!", 0, nil)
	return append(out, Pack(t, suffix, payload.Bytes())...)
}

// AR makes an archive of alternating names (strings) and contents.
func AR(members ...any) []byte {
	out := []byte("!<arch>\n")
	for i := 0; i < len(members); i += 2 {
		name, data := members[i].(string), members[i+1].([]byte)
		out = fmt.Appendf(out, "%-16s%-12d%-6d%-6d%-8s%-10d%s", name, 0, 0, 0, "100644", len(data), "`\n")
		out = append(out, data...)
		if len(data)%2 != 0 {
			out = append(out, '\n')
		}
	}
	return out
}
