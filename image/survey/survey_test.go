package survey

import (
	"testing"

	"github.com/rootvouch/rootvouch/image/erofs"
	"github.com/rootvouch/rootvouch/image/rootfs"
)

// TestHidden: files that overlayfs takes for itself are named.
func TestHidden(t *testing.T) {
	tree := rootfs.New()
	for name, f := range map[string]rootfs.File{
		"whiteout": {Mode: erofs.TypeCharDevice},
		"null":     {Mode: erofs.TypeCharDevice, Device: 0x103},
		"opaque":   {Mode: erofs.TypeFIFO, Xattrs: map[string]string{"trusted.overlay.opaque": "y"}},
	} {
		if err := tree.Add(name, f); err != nil {
			t.Fatal(err)
		}
	}
	if count, name := Hidden(tree); count != 2 || name != "opaque" {
		t.Errorf("got %d, such as %q, want 2, such as opaque", count, name)
	}
	if _, err := tree.Exclude("opaque"); err != nil {
		t.Fatal(err)
	}
	if count, name := Hidden(tree); count != 1 || name != "whiteout" {
		t.Errorf("with one excluded: got %d, such as %q, want 1, such as whiteout", count, name)
	}
}
