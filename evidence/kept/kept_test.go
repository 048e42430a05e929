package kept

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rootvouch/rootvouch/snp"
)

func TestKeep(t *testing.T) {
	dir := t.TempDir()
	d, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	first := &snp.Report{ChipID: snp.ChipID{1}, ReportedTCB: 7}
	path, err := d.Keep([]byte("one"), first)
	if err != nil {
		t.Fatal(err)
	}
	// The evidence of a chip at a TCB stays. A later caller cannot replace it.
	if again, err := d.Keep([]byte("two"), first); err != nil || again != path {
		t.Errorf("got %q, %v, want %q", again, err, path)
	}
	if data, err := os.ReadFile(path); err != nil || string(data) != "one" {
		t.Errorf("kept %q, %v, want the first", data, err)
	}
	for _, other := range []*snp.Report{{ChipID: snp.ChipID{2}, ReportedTCB: 7}, {ChipID: snp.ChipID{1}, ReportedTCB: 8}} {
		if p, err := d.Keep([]byte("other"), other); err != nil || p == path {
			t.Errorf("another chip or TCB is kept as %q, %v", p, err)
		}
	}
}

// Strangers decide how much evidence comes. A new file replaces only the oldest
// file of evidence.
func TestBound(t *testing.T) {
	dir := t.TempDir()
	mine := filepath.Join(dir, "notes.txt")
	if err := os.WriteFile(mine, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for i := range max + 3 {
		path, err := d.Keep(fmt.Appendf(nil, "%d", i), &snp.Report{ChipID: snp.ChipID{byte(i), 1}})
		if err != nil {
			t.Fatal(err)
		}
		at := time.Unix(int64(1000+i), 0)
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
		paths = append(paths, path)
	}
	for i, path := range append(paths, mine) {
		if _, err := os.Stat(path); (err == nil) != (i >= 3) {
			t.Errorf("%s, number %d: %v; want the first 3 gone and nothing else", path, i, err)
		}
	}
}

func TestOpen(t *testing.T) {
	if d, err := Open(""); err != nil {
		t.Error(err)
	} else if path, err := d.Keep([]byte("x"), &snp.Report{}); path != "" || err != nil {
		t.Errorf("got %q, %v, want nothing", path, err)
	}
	file := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(file + "2"); err != nil {
		t.Errorf("a directory that is missing: %v, want it made", err)
	}
	for _, path := range []string{file, file + "3/below"} {
		if _, err := Open(path); err == nil {
			t.Errorf("%s: accepted", path)
		}
	}
}
