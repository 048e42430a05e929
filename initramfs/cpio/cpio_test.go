package cpio

import (
	"bytes"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/rootvouch/rootvouch/internal/needs"
)

func sample() []Entry {
	return []Entry{
		{Name: "bin", Mode: TypeDirectory | 0o755},
		{Name: "bin/a", Mode: TypeRegular | 0o755, Data: []byte("one")},
		{Name: "bin/b", Mode: TypeRegular | 0o644},
		{Name: "dev", Mode: TypeDirectory | 0o755},
		{Name: "dev/console", Mode: TypeChar | 0o600, Major: 5, Minor: 1},
		{Name: "dev/vda", Mode: TypeBlock | 0o600, Major: 253, Minor: 255},
		{Name: "init", Mode: TypeSymlink | 0o777, Data: []byte("bin/a")},
		{Name: "tmp", Mode: TypeDirectory | 0o1777},
	}
}

func write(entries []Entry) ([]byte, error) {
	var buf bytes.Buffer
	w := NewWriter(&buf)
	for _, e := range entries {
		if err := w.Add(e); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

func mustWrite(t testing.TB, entries []Entry) []byte {
	t.Helper()
	data, err := write(entries)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func read(data []byte) (entries []Entry, size int64, err error) {
	r := NewReader(bytes.NewReader(data))
	for {
		e, err := r.Next()
		if errors.Is(err, io.EOF) {
			return entries, r.Offset(), nil
		}
		if err != nil {
			return nil, r.Offset(), err
		}
		entries = append(entries, e)
	}
}

func TestRoundTrip(t *testing.T) {
	for n := range sample() {
		want := sample()[:n]
		data := mustWrite(t, want)
		if len(data)%align != 0 {
			t.Errorf("archive has %d bytes, want a multiple of %d", len(data), align)
		}
		got, size, err := read(append(bytes.Clone(data), "more"...))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
			t.Error(diff)
		}
		if size != int64(len(data)) {
			t.Errorf("got size %d, want %d", size, len(data))
		}
	}
}

// TestBytes pins the bytes of a small archive, field by field.
func TestBytes(t *testing.T) {
	want := "070701" + "00000001" + "000081A4" + "00000000" + "00000000" + "00000001" + "00000000" + "00000003" +
		"00000000" + "00000000" + "00000000" + "00000000" + "00000002" + "00000000" + "f\x00" + "abc\x00" +
		"070701" + "00000002" + "00002180" + "00000000" + "00000000" + "00000001" + "00000000" + "00000000" +
		"00000000" + "00000000" + "00000005" + "00000001" + "00000004" + "00000000" + "tty\x00" + "\x00\x00" +
		"070701" + "00000000" + "00000000" + "00000000" + "00000000" + "00000001" + "00000000" + "00000000" +
		"00000000" + "00000000" + "00000000" + "00000000" + "0000000B" + "00000000" + "TRAILER!!!\x00" + "\x00\x00\x00"
	got := mustWrite(t, []Entry{
		{Name: "f", Mode: TypeRegular | 0o644, Data: []byte("abc")},
		{Name: "tty", Mode: TypeChar | 0o600, Major: 5, Minor: 1},
	})
	if string(got) != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestWriterRefuses(t *testing.T) {
	file := uint32(TypeRegular | 0o644)
	for _, c := range []struct {
		name    string
		entries []Entry
		want    string
	}{
		{"empty name", []Entry{{Mode: file}}, "clean relative path"},
		{"absolute", []Entry{{Name: "/a", Mode: file}}, "clean relative path"},
		{"root", []Entry{{Name: ".", Mode: TypeDirectory}}, "clean relative path"},
		{"parent", []Entry{{Name: "../a", Mode: file}}, "clean relative path"},
		{"dot inside", []Entry{{Name: "a/./b", Mode: file}}, "clean relative path"},
		{"final slash", []Entry{{Name: "a/", Mode: TypeDirectory}}, "clean relative path"},
		{"NUL", []Entry{{Name: "a\x00b", Mode: file}}, "clean relative path"},
		{"trailer", []Entry{{Name: trailerName, Mode: file}}, "ends an archive"},
		{"long", []Entry{{Name: strings.Repeat("a", 4096), Mode: file}}, "at most 4095"},
		{"unsorted", []Entry{{Name: "b", Mode: file}, {Name: "a", Mode: file}}, "sorted"},
		{"twice", []Entry{{Name: "a", Mode: file}, {Name: "a", Mode: file}}, "sorted"},
		{"no type", []Entry{{Name: "a", Mode: 0o644}}, "type"},
		{"fifo", []Entry{{Name: "a", Mode: 0o010644}}, "type"},
		{"socket", []Entry{{Name: "a", Mode: 0o140644}}, "type"},
		{"high bits", []Entry{{Name: "a", Mode: 1<<31 | file}}, "mode"},
		{"directory with data", []Entry{{Name: "a", Mode: TypeDirectory, Data: []byte{1}}}, "size"},
		{"file with device", []Entry{{Name: "a", Mode: file, Minor: 1}}, "device number"},
		{"no target", []Entry{{Name: "a", Mode: TypeSymlink}}, "target"},
		{"NUL in target", []Entry{{Name: "a", Mode: TypeSymlink, Data: []byte("a\x00")}}, "target"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := write(c.entries); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v, want one with %q", err, c.want)
			}
		})
	}
}

// TestReaderRefuses changes one field of a good archive that has one file "f".
func TestReaderRefuses(t *testing.T) {
	field := func(i int) int { return len(magic) + 8*i }
	for _, c := range []struct {
		name   string
		offset int
		bytes  string
		want   string
	}{
		{"magic of crc", 0, "070702", "magic"},
		{"magic of odc", 0, "070707", "magic"},
		{"ino", field(0), "00000002", "header of"},
		{"mode", field(1), "000181A4", "mode"},
		{"uid", field(2), "00000001", "header of"},
		{"gid", field(3), "00000001", "header of"},
		{"nlink", field(4), "00000002", "header of"},
		{"mtime", field(5), "00000001", "header of"},
		{"size claims 4 GiB", field(6), "FFFFFFFF", "unexpected EOF"},
		{"size one less", field(6), "00000002", "padding"},
		{"major", field(7), "00000001", "header of"},
		{"minor", field(8), "00000001", "header of"},
		{"rmajor", field(9), "00000001", "device number"},
		{"rminor", field(10), "00000001", "device number"},
		{"no name", field(11), "00000000", "name size"},
		{"name size", field(11), "00001001", "name size"},
		{"empty name", field(11), "00000001", "NUL"},
		{"check", field(12), "00000001", "header of"},
		{"lower case", field(1), "000081a4", "upper-case"},
		{"sign", field(1), "+00081A4", "upper-case"},
		{"prefix", field(1), "0x0081A4", "upper-case"},
		{"name without NUL", headerSize + 1, "g", "NUL"},
		{"NUL as name", headerSize, "\x00", "clean relative"},
		{"slash as name", headerSize, "/", "clean relative"},
		{"data padding", headerSize + 5, "x", "padding"},
		{"trailer ino", headerSize + 6 + field(0), "00000001", "trailer"},
		{"trailer size", headerSize + 6 + field(6), "00000001", "trailer"},
		{"trailer padding", 2*headerSize + 6 + 11, "\x01", "padding"},
	} {
		t.Run(c.name, func(t *testing.T) {
			data := mustWrite(t, []Entry{{Name: "f", Mode: TypeRegular | 0o644, Data: []byte("abc")}})
			copy(data[c.offset:], c.bytes)
			if _, _, err := read(data); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v, want one with %q", err, c.want)
			}
		})
	}
}

func TestReaderRefusesTruncation(t *testing.T) {
	data := mustWrite(t, sample())
	for n := range data {
		if _, _, err := read(data[:n]); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("%d of %d bytes: got error %v, want %v", n, len(data), err, io.ErrUnexpectedEOF)
		}
	}
}

func TestReaderKeepsItsError(t *testing.T) {
	r := NewReader(strings.NewReader("no archive"))
	_, first := r.Next()
	if _, second := r.Next(); first == nil || !errors.Is(second, first) {
		t.Errorf("got errors %v and %v, want the same one", first, second)
	}
}

type failingWriter struct{ left int }

func (w *failingWriter) Write(p []byte) (int, error) {
	if w.left -= len(p); w.left < 0 {
		return 0, io.ErrClosedPipe
	}
	return len(p), nil
}

func TestWriterReportsErrors(t *testing.T) {
	size := len(mustWrite(t, sample()))
	for left := 0; left < size; left += 50 {
		w := NewWriter(&failingWriter{left})
		var err error
		for _, e := range sample() {
			if err = w.Add(e); err != nil {
				break
			}
		}
		if err == nil {
			err = w.Close()
		}
		if !errors.Is(err, io.ErrClosedPipe) {
			t.Fatalf("room for %d bytes: got error %v, want %v", left, err, io.ErrClosedPipe)
		}
	}
}

// TestReference lists our archive with the machine's cpio.
func TestReference(t *testing.T) {
	for _, command := range [][]string{{"cpio", "-t", "--quiet"}, {"bsdtar", "-tf", "-"}} {
		t.Run(command[0], func(t *testing.T) {
			needs.Tool(t, command[0])
			cmd := exec.Command(command[0], command[1:]...)
			cmd.Stdin = bytes.NewReader(mustWrite(t, sample()))
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			var want string
			for _, e := range sample() {
				want += e.Name + "\n"
			}
			if got := strings.ReplaceAll(string(out), "/\n", "\n"); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

// FuzzRoundTrip checks that Writer writes the same bytes for every archive that
// Reader accepts.
func FuzzRoundTrip(f *testing.F) {
	f.Add(mustWrite(f, nil))
	f.Add(mustWrite(f, sample()))
	f.Fuzz(func(t *testing.T, data []byte) {
		entries, size, err := read(data)
		if err != nil {
			return
		}
		if got := mustWrite(t, entries); !bytes.Equal(got, data[:size]) {
			t.Errorf("read %q, wrote %q", data[:size], got)
		}
	})
}
