package uki

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rootvouch/rootvouch/internal/command"
)

// TestBuildRefuses: a kernel that nobody could start makes no image.
func TestBuildRefuses(t *testing.T) {
	cut := append(append(make([]byte, 0x202), "HdrS"...), make([]byte, 0x100)...)
	cut[0x1f4] = 0xff // 255 * 16 bytes after the setup sectors
	for _, c := range []struct {
		name          string
		kernel, image []byte
		want          string
	}{
		{"cut off", cut, []byte("070701"), "the kernel is cut off"},
		{"an initramfs for a kernel", []byte("070701"), []byte("070701"), "kernel"},
		{"a kernel for an initramfs", cut, cut, "initramfs"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			file := func(name string, data []byte) string {
				path := filepath.Join(dir, name)
				if err := os.WriteFile(path, data, 0o600); err != nil {
					t.Fatal(err)
				}
				return path
			}
			image := filepath.Join(dir, "web.efi")
			var out strings.Builder
			status := command.Main(New(), []string{"build", "--stub", file("stub", []byte("MZ")), "--kernel", file("vmlinuz", c.kernel),
				"--initrd", file("initrd.img", c.image), "--append", "quiet", "--out", image}, &out, &out)
			if status == 0 || !strings.Contains(out.String(), c.want) {
				t.Errorf("got status %d and %s, want a refusal with %q", status, out.String(), c.want)
			}
			if _, err := os.Stat(image); err == nil {
				t.Error("an image is there")
			}
		})
	}
}
