package boot

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// TestInitEnvironment checks the defence against credentials of the host: the
// variable is set, and the directory that it names exists and is empty.
func TestInitEnvironment(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "credentials", "@system")
	t.Setenv("LD_PRELOAD", "/etc/x.so") // PID 1's own environment is not passed on
	got, err := initEnvironment(dir)
	if want := []string{"HOME=/", "TERM=linux", "CREDENTIALS_DIRECTORY=" + dir, "SYSTEMD_EFI_OPTIONS="}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
	info, err := os.Lstat(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := info.Mode(), fs.ModeDir|0o700; got != want {
		t.Errorf("mode is %v, want %v", got, want)
	}
	if held, err := os.ReadDir(dir); err != nil || len(held) != 0 {
		t.Errorf("got %v, %v, want an empty directory", held, err)
	}
	if _, err := initEnvironment(dir); !errors.Is(err, fs.ErrExist) {
		t.Errorf("got error %v for a directory that was there before, want one that matches fs.ErrExist", err)
	}
}
