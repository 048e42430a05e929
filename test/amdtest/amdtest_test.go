package amdtest

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"testing"
)

// TestOrigin compares every file with its row of ORIGIN.md.
func TestOrigin(t *testing.T) {
	rows := map[string]string{} // :: file -> SHA-256 of its bytes
	for line := range strings.Lines(string(read(t, "ORIGIN.md"))) {
		if cells := strings.Split(line, " | "); len(cells) == 5 && strings.Contains(cells[0], ".") {
			rows[strings.TrimPrefix(cells[0], "| ")] = strings.Fields(cells[4])[0]
		}
	}
	entries, err := files.ReadDir("testdata")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		name := e.Name()
		if name == "ORIGIN.md" || name == "reports.json" {
			continue
		}
		data := read(t, name)
		if strings.HasSuffix(name, ".hex") {
			data = readHex(t, name)
		}
		if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != rows[name] {
			t.Errorf("%s has SHA-256 %x, ORIGIN.md says %q", name, sum, rows[name])
		}
		delete(rows, name)
	}
	for name := range rows {
		t.Errorf("ORIGIN.md names %s, which is not there", name)
	}
}
