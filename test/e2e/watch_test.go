package e2e

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rootvouch/rootvouch/demo"
	"github.com/rootvouch/rootvouch/luks2"
	"github.com/rootvouch/rootvouch/platform"
	"github.com/rootvouch/rootvouch/test/attack"
	"github.com/rootvouch/rootvouch/test/vmtest"
)

// spareSize is that of the disk which the host offers for writing.
const spareSize = 8 << 20

// watch launches a guest, with further arguments to QEMU. What the host saw of it,
// console, packets and writes to a disk of the host's, is searched for secrets
// when the test ends.
func (c *chain) watch(t *testing.T, g platform.Guest, more ...string) *vmtest.Machine {
	t.Helper()
	capture, spare := filepath.Join(t.TempDir(), "packets"), filepath.Join(t.TempDir(), "spare")
	if err := os.WriteFile(spare, make([]byte, spareSize), 0o600); err != nil {
		t.Fatal(err)
	}
	var m *vmtest.Machine
	t.Cleanup(func() { // after the VM's own, which stops it
		if m != nil {
			c.search(t, m, capture, spare)
		}
	})
	quote := func(path string) string { return strings.ReplaceAll(path, ",", ",,") } // as QEMU reads it; a test's name may have commas
	more = append(more, "-object", "filter-dump,id=capture,netdev=net0,file="+quote(capture),
		"-drive", "file="+quote(spare)+",format=raw,if=none,id=spare,cache=writeback", "-device", "virtio-blk-pci,drive=spare,addr=0x1a")
	m = vmtest.BootWith(t, g, platform.Options{AMDSP: c.chip, QEMU: vmtest.Adding(t, more...)})
	return m
}

func (c *chain) search(t *testing.T, m *vmtest.Machine, capture, spare string) {
	t.Helper()
	written, err := os.ReadFile(spare)
	if err != nil {
		t.Error(err)
	}
	if !bytes.Equal(written, make([]byte, spareSize)) {
		t.Error("the guest wrote to a disk of the host's")
	}
	packets, err := os.ReadFile(capture)
	if err != nil {
		t.Error(err)
	}
	const fileHeader = 24 // of the capture, without a packet
	if len(packets) < fileHeader {
		t.Errorf("the capture has %d bytes, want at least %d", len(packets), fileHeader)
	}
	for where, data := range map[string][]byte{"console": []byte(strings.Join(m.Lines(), "\n")), "packets": packets, "disk": written} {
		for _, found := range attack.Find(data, c.secrets) {
			t.Errorf("the host sees on its %s: %s", where, found)
		}
	}
}

// secretsOf returns what no host may see of a guest that was built from a root
// tree: the disk's key, its volume key, and a piece of a file.
func secretsOf(d *demo.Domain, g demo.Guest, root string) ([]attack.Secret, error) {
	key, err := os.ReadFile(d.Key(g))
	if err != nil {
		return nil, err
	}
	disk, err := os.Open(g.Disk())
	if err != nil {
		return nil, err
	}
	defer disk.Close()
	header := make([]byte, luks2.HeaderSize)
	if _, err := io.ReadFull(disk, header); err != nil {
		return nil, err
	}
	container, err := luks2.Parse(header)
	if err != nil {
		return nil, err
	}
	volume, err := container.VolumeKey(key)
	if err != nil {
		return nil, err
	}
	plain, err := plaintext(root)
	if err != nil {
		return nil, err
	}
	return []attack.Secret{{Name: "the disk's key", Bytes: key}, {Name: "the volume key", Bytes: volume}, {Name: "a file of the root", Bytes: plain}}, nil
}

// plaintext returns 64 bytes of a program in a root tree, none of them there
// often.
func plaintext(root string) ([]byte, error) {
	f, err := os.Open(root)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	const size, many = 64, 40
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("%s has no file with %d bytes that differ", root, many)
		}
		if err != nil {
			return nil, err
		}
		if h.Typeflag != tar.TypeReg || h.Mode&0o111 == 0 || h.Size < 1<<16 {
			continue
		}
		data, err := io.ReadAll(r)
		if err != nil {
			return nil, err
		}
		for at := len(data) / 2; at+size <= len(data); at += size {
			distinct := map[byte]bool{}
			for _, b := range data[at : at+size] {
				distinct[b] = true
			}
			if len(distinct) >= many {
				return data[at : at+size], nil
			}
		}
	}
}
