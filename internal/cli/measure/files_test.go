package measure

import (
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/rootvouch/rootvouch/snp/launch"
)

// TestCutShort: a file that is cut short while it is hashed is an error, on
// whichever goroutine that is found.
func TestCutShort(t *testing.T) {
	for name, use := range map[string]func(image []byte) error{
		"one goroutine": func(image []byte) error {
			_, err := launch.HashBlob(strings.NewReader(string(image)))
			return err
		},
		"several": func(image []byte) error {
			f, err := launch.ParseFirmware(image)
			if err != nil {
				return err
			}
			_, err = launch.NewBase(launch.SNP, f)
			return err
		},
	} {
		path := filepath.Join(t.TempDir(), "image")
		if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
			t.Fatal(err)
		}
		cut := false
		err := withFile(path, 1<<20, func(image []byte) error {
			return unfaulted(func() error {
				if cut = os.Truncate(path, 0) == nil; !cut {
					return nil
				}
				return use(image)
			})
		}, func(io.Reader) error { return nil })
		if !cut || err == nil || !strings.Contains(err.Error(), "truncated") {
			t.Errorf("%s: cut is %t, got error %v", name, cut, err)
		}
	}
}

func TestUnfaultedKeepsOtherPanics(t *testing.T) {
	defer func() {
		if got := recover(); got != "other" {
			t.Errorf("got %v, want the panic", got)
		}
	}()
	_ = unfaulted(func() error { panic("other") })
}

// TestOneReaderEach: two readers of one pipe get a part each.
func TestOneReaderEach(t *testing.T) {
	dir := t.TempDir()
	pipe, link, file := filepath.Join(dir, "pipe"), filepath.Join(dir, "link"), filepath.Join(dir, "file")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(pipe, link); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := oneReaderEach(pipe, file, file, "", "missing", "missing"); err != nil {
		t.Error(err)
	}
	if err := oneReaderEach(pipe, file, link); err == nil {
		t.Error("one pipe by two names: got no error")
	}
}
