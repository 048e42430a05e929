package audit

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/snp"
)

var noon = time.Date(2026, 11, 23, 12, 0, 0, 5000, time.UTC)

func clock() time.Time { return noon }

// newLog makes a log with three entries after the first line.
func newLog(t *testing.T) (path string, head Head) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "audit.jsonl")
	if err := Create(path, noon); err != nil {
		t.Fatal(err)
	}
	l, err := Open(path, Head{}, clock)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	head, err = l.Append(
		Entry{Event: Put, Disk: pins.UUID{1}, SPIFFEID: "spiffe://example.org/vm", Actor: "uid=0", Generation: 1},
		Entry{Event: Release, Disk: pins.UUID{1}, ReportID: snp.ReportID{2}, Measurement: pins.HexBytes{3}})
	if err != nil {
		t.Fatal(err)
	}
	if head, err = l.Append(Entry{Event: Refusal, Reason: "because <\xff>\n" + strings.Repeat("é", maxReason)}); err != nil {
		t.Fatal(err)
	}
	return path, head
}

func TestAppendVerify(t *testing.T) {
	path, head := newLog(t)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var events []Event
	scan, err := Verify(bytes.NewReader(data), head, func(r Record) { events = append(events, r.Event) })
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]Event{Init, Put, Release, Refusal}, events); diff != "" {
		t.Error(diff)
	}
	if scan.Head != head || scan.Size != int64(len(data)) || scan.Torn != 0 {
		t.Errorf("got %+v, want head %s and %d bytes", scan, head, len(data))
	}
	again, err := ParseHead(head.String())
	if err != nil || again != head {
		t.Errorf("got head %v, %v, want %v", again, err, head)
	}
	if err := Create(path, noon); !errors.Is(err, os.ErrExist) {
		t.Errorf("Create over a log: got error %v, want os.ErrExist", err)
	}
}

// TestHostileText: what peers can put into a line never makes one that nobody can
// verify, which would be a log that no server starts with.
func TestHostileText(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.jsonl")
	if err := Create(path, noon); err != nil {
		t.Fatal(err)
	}
	log, err := Open(path, Head{}, clock)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"<", "\u2028", "\x00", "\xff", "\U0001F600", `"`} {
		long := strings.Repeat(text, 10000)
		if _, err := log.Append(Entry{Event: Refusal, Code: "malformed", Reason: long, SPIFFEID: long, Remote: long},
			Entry{Event: Put, SPIFFEID: long, Actor: long}); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
	}
	for _, e := range []Entry{{Event: "putt"}, {Event: Start, Actor: "x"}, {}} {
		if _, err := log.Append(e); err == nil {
			t.Errorf("%+v is appended, and no log with it verifies", e)
		}
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := Open(path, Head{}, clock)
	if err != nil {
		t.Fatalf("the log cannot be opened any more: %v", err)
	}
	again.Close()
}

func TestVerifyRefuses(t *testing.T) {
	path, head := newLog(t)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.SplitAfter(data, []byte("\n"))
	join := func(l ...[]byte) []byte { return bytes.Join(l, nil) }
	replace := func(old, new string) []byte { return bytes.Replace(data, []byte(old), []byte(new), 1) }
	other := head
	other.Digest[0] ^= 1
	for _, c := range []struct {
		name string
		data []byte
		must Head
		want string
	}{
		{"empty", nil, Head{}, "got no line"},
		{"changed", replace("uid=0", "uid=1"), Head{}, "line 3: previous is"},
		{"removed", join(lines[0], lines[1], lines[3]), Head{}, "line 3: sequence is 4, want 3"},
		{"first removed", join(lines[1:]...), Head{}, "line 1: sequence is 2, want 1"},
		{"swapped", join(lines[0], lines[2], lines[1], lines[3]), Head{}, "line 2: sequence is 3"},
		{"repeated", join(lines[0], lines[0]), Head{}, "line 2: sequence is 1"},
		{"last changed, head known", replace("because", "becausE"), head, "line 4: digest is"},
		{"cut off, head known", join(lines[:3]...), head, "lines were cut off"},
		{"other head", data, other, "digest is"},
		{"white space", replace(`"event":"put"`, `"event": "put"`), Head{}, "another form"},
		{"unknown member", replace(`"event":"put"`, `"event":"put","x":1`), Head{}, "another form"},
		{"repeated member", replace(`"event":"put"`, `"event":"put","event":"put"`), Head{}, "another form"},
		{"member in another case", replace(`"event":"put"`, `"Event":"put"`), Head{}, "another form"},
		{"data after the value", replace("\n", "{}\n"), Head{}, "invalid character"},
		{"unknown event", replace(`"event":"put"`, `"event":"putt"`), Head{}, `event is "putt"`},
		{"second init", replace(`"event":"put"`, `"event":"init"`), Head{}, `event is "init" in line 2`},
		{"no init", replace(`"event":"init"`, `"event":"start"`), Head{}, `event is "start" in line 1`},
		{"member of another event", replace(`"event":"put"`, `"event":"start"`), Head{}, "members of another event"},
		{"time that is not UTC", replace(`Z","event":"put"`, `+01:00","event":"put"`), Head{}, "want UTC"},
		{"version", replace(`"version":1`, `"version":2`), Head{}, "version is 2"},
		{"blank line", join(lines[0], []byte("\n"), lines[1]), Head{}, "line 2"},
		{"long line", join(lines[0], bytes.Repeat([]byte("x"), MaxLine+1), []byte("\n")), Head{}, "in a line"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := Verify(bytes.NewReader(c.data), c.must, nil); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v, want one with %q", err, c.want)
			}
		})
	}
}

// TestCrash cuts the log at every byte: it opens with all whole lines, and what a
// crash left of an unfinished one is gone and said to be.
// TestMadeAnew writes another log that fits together, as who can write the file
// can: only a noted head tells.
func TestMadeAnew(t *testing.T) {
	path, head := newLog(t)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var forged []byte
	end := Head{}
	if _, err := Verify(bytes.NewReader(data), head, func(r Record) {
		e := r.Entry
		if e.Event == Put {
			e.Actor = "somebody else"
		}
		var line []byte
		line, end = encode(end, r.Time, e)
		forged = append(forged, line...)
	}); err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(forged, data) {
		t.Fatal("the log was not changed")
	}
	if _, err := Verify(bytes.NewReader(forged), Head{}, nil); err != nil {
		t.Errorf("without a head: %v", err)
	}
	if _, err := Verify(bytes.NewReader(forged), head, nil); err == nil {
		t.Error("the noted head does not tell a forged log")
	}
	if _, err := Verify(bytes.NewReader(data), end, nil); err == nil {
		t.Error("a head of another log is taken")
	}
}

func TestCrash(t *testing.T) {
	path, _ := newLog(t)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	first := bytes.IndexByte(data, '\n') + 1
	for _, tail := range [][]byte{nil, make([]byte, 100), make([]byte, 3*MaxLine)} {
		for cut := first; cut <= len(data); cut += 97 {
			if err := os.WriteFile(path, append(bytes.Clone(data[:cut]), tail...), 0o600); err != nil {
				t.Fatal(err)
			}
			l, err := Open(path, Head{}, clock)
			if err != nil {
				t.Fatalf("cut at %d, %d NUL bytes: %v", cut, len(tail), err)
			}
			head, err := l.Append(Entry{Event: Start})
			if err != nil {
				t.Fatal(err)
			}
			l.Close()
			after, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := Verify(bytes.NewReader(after), head, nil); err != nil {
				t.Fatal(err)
			}
			torn := cut > first && data[cut-1] != '\n' || len(tail) > 0
			if got := bytes.Contains(after, []byte(`"recovered"`)); got != torn {
				t.Fatalf("cut at %d, %d NUL bytes: recovered is %t, want %t", cut, len(tail), got, torn)
			}
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	path, head := newLog(t)
	if _, err := Open(path+"x", Head{}, clock); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("absent: got error %v, want os.ErrNotExist", err)
	}
	l, err := Open(path, head, clock)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path, head, clock); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Errorf("second Open: got error %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Append(Entry{Event: Start}); !errors.Is(err, ErrBroken) {
		t.Errorf("after Close: got error %v, want ErrBroken", err)
	}
}

// disk is a file whose operations fail on demand.
type disk struct {
	bytes.Buffer
	write, sync, truncate error
}

func (d *disk) Write(b []byte) (int, error) {
	if d.write != nil {
		d.Buffer.Write(b[:len(b)/2])
		return len(b) / 2, d.write
	}
	return d.Buffer.Write(b)
}
func (d *disk) Sync() error  { return d.sync }
func (d *disk) Close() error { return nil }
func (d *disk) Truncate(size int64) error {
	if d.truncate == nil {
		d.Buffer.Truncate(int(size))
	}
	return d.truncate
}

func TestFailingDisk(t *testing.T) {
	full := errors.New("no space left")
	d := &disk{}
	l := &Log{clock: clock, file: d}
	must := func(e Event) {
		t.Helper()
		if _, err := l.Append(Entry{Event: e}); err != nil {
			t.Fatal(err)
		}
	}
	must(Init)
	d.write = full
	if _, err := l.Append(Entry{Event: Start}); !errors.Is(err, full) {
		t.Errorf("full disk: got error %v, want it", err)
	}
	d.write = nil
	must(Start) // there is space again, and the half line is gone
	if _, err := Verify(bytes.NewReader(d.Bytes()), l.Head(), nil); err != nil {
		t.Error(err)
	}
	d.sync = full
	if _, err := l.Append(Entry{Event: Start}); !errors.Is(err, ErrBroken) {
		t.Errorf("failed sync: got error %v, want ErrBroken", err)
	}
	d.sync = nil
	if _, err := l.Append(Entry{Event: Start}); !errors.Is(err, ErrBroken) {
		t.Errorf("after a failed sync: got error %v, want ErrBroken", err)
	}

	l = &Log{clock: clock, file: &disk{write: full, truncate: full}}
	if _, err := l.Append(Entry{Event: Start}); !errors.Is(err, ErrBroken) {
		t.Errorf("write, then truncate failed: got error %v, want ErrBroken", err)
	}
}

func FuzzVerify(f *testing.F) {
	line, head := encode(Head{}, noon, Entry{Event: Init})
	next, _ := encode(head, noon, Entry{Event: Refusal, Reason: "x"})
	f.Add(line)
	f.Add(append(line, next...))
	f.Fuzz(func(t *testing.T, data []byte) {
		Verify(bytes.NewReader(data), Head{}, nil)
	})
}
