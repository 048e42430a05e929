package publish_test

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rootvouch/rootvouch/internal/needs"
)

// TestOracle has another implementation of tlog-tiles judge the log: whole, and with a changed
// byte in each of its files.
func TestOracle(t *testing.T) {
	oracle := needs.Part(t, "tessera/1.0.4/tessera")
	b, record := newBook(t)
	two := b.Replica("two", b.Engine)
	for i := range 200 {
		release(t, b.Ledger, record, byte(i))
		if i%3 == 0 {
			release(t, two, record, byte(200+i/3))
		}
	}
	b.Publish(t)
	dir, tree := b.Log(t)
	judge := func() (string, error) {
		out, err := exec.Command(oracle, string(dir), b.Store.LogPublic()).CombinedOutput()
		return string(out), err
	}
	if out, err := judge(); err != nil || !strings.Contains(out, fmt.Sprintf("%d leaves, root %x\n", tree.Size, tree.Root[:])) {
		t.Fatalf("the oracle says %v, %s, want %d leaves, root %x", err, out, tree.Size, tree.Root[:])
	}
	if tree.Size <= 256 {
		t.Fatalf("the log has %d leaves, want full tiles", tree.Size)
	}
	changed := 0
	must(t, filepath.WalkDir(string(dir), func(path string, entry fs.DirEntry, err error) error {
		name := strings.TrimPrefix(path, string(dir))
		if err != nil || entry.IsDir() || name != "/checkpoint" && !strings.HasPrefix(name, "/tile/") {
			return err
		}
		data, err := os.ReadFile(path)
		must(t, err)
		bad := bytes.Clone(data)
		bad[len(bad)-2] ^= 1
		must(t, os.WriteFile(path, bad, 0o600))
		if out, err := judge(); err == nil {
			t.Errorf("the oracle takes a changed %s: %s", name, out)
		}
		must(t, os.WriteFile(path, data, 0o600))
		changed++
		return nil
	}))
	if changed < 5 {
		t.Errorf("%d files were changed, want more", changed)
	}
}
