package disktest

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/rootvouch/rootvouch/internal/needs"
)

// What was flushed is there after a cut, and what was not is there where it survives alone.
// The client is QEMU's own.
func TestCut(t *testing.T) {
	client := needs.Tool(t, "qemu-io")
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	d := Serve(t, path)
	// qemu-io is ended before it can close the disk, which flushes.
	run := func(commands ...string) {
		t.Helper()
		args := []string{"-f", "raw", "-t", "writeback", d.URL()}
		for _, c := range append(commands, "sigraise 9") {
			args = append(args, "-c", c)
		}
		out, err := exec.Command(client, args...).CombinedOutput()
		if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != -1 || bytes.Contains(out, []byte("failed")) {
			t.Fatalf("qemu-io: %v: %s", err, out)
		}
	}
	filled := func(at int, want byte) {
		t.Helper()
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if got := data[at : at+4096]; !bytes.Equal(got, bytes.Repeat([]byte{want}, 4096)) {
			t.Errorf("at %d there is %x…, want %x", at, got[:8], want)
		}
	}
	cut := func(survives bool, want int) {
		t.Helper()
		if lost, err := d.Cut(func() bool { return survives }); err != nil || lost != want {
			t.Errorf("got %d sectors lost, %v, want %d", lost, err, want)
		}
	}
	run("write -P 1 0 4k", "flush", "write -P 2 8k 4k", "read -P 2 8k 4k", "read -P 1 0 4k")
	filled(0, 1)
	filled(8<<10, 0)
	cut(false, 8)
	run("read -P 1 0 4k", "read -P 0 8k 4k", "write -P 3 8k 4k")
	cut(true, 0)
	filled(8<<10, 3)
	run("write -f -P 4 16k 4k")
	filled(16<<10, 4)
	cut(false, 0)
	if d.Flushes() != 2 {
		t.Errorf("there were %d flushes, want 2", d.Flushes())
	}
}
