package platform

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestCheckFiles: a qcow2 is refused as a raw disk. Otherwise the VM would get its
// key and then refuse the disk.
func TestCheckFiles(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"raw": "LUKS\xba\xbe", "short": "QF", "qcow2": "QFI\xfb\x00\x00\x00\x03"} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		err := Guest{Disk: path}.checkFiles()
		if refused := err != nil && strings.Contains(err.Error(), "is a qcow2"); refused != (name == "qcow2") {
			t.Errorf("%s: got error %v", name, err)
		}
	}
}
