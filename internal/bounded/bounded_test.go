package bounded

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
)

func TestRead(t *testing.T) {
	for size, whole := range map[int]bool{0: true, 3: true, 4: true, 5: false, 500: false} {
		got, err := Read(strings.NewReader(strings.Repeat("x", size)), 4)
		if whole && (err != nil || len(got) != size) {
			t.Errorf("%d bytes: got %d, %v", size, len(got), err)
		}
		if !whole && (got != nil || !errors.Is(err, ErrTooLarge) || err.Error() != "the input has more than 4 bytes") {
			t.Errorf("%d bytes: got %d, %v", size, len(got), err)
		}
	}
	broken := errors.New("broken")
	if got, err := Read(iotest.ErrReader(broken), 4); got != nil || !errors.Is(err, broken) {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestReadFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if _, err := ReadFile(path, 4); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got error %v", err)
	}
	if err := os.WriteFile(path, []byte("12345"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadFile(path, 4); !errors.Is(err, ErrTooLarge) || err.Error() != path+" has more than 4 bytes" {
		t.Errorf("got error %v", err)
	}
	if got, err := ReadFile(path, 5); err != nil || string(got) != "12345" {
		t.Errorf("got %q, %v", got, err)
	}
}
