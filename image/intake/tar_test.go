package intake

import (
	"archive/tar"
	"testing"

	"github.com/rootvouch/rootvouch/image/erofs"
)

// TestSymlinkMode: whatever a tar says, on Linux a symbolic link has one mode.
func TestSymlinkMode(t *testing.T) {
	for _, mode := range []int64{0o777, 0o755, 0, 0o4644} {
		e := tarEntry{Header: &tar.Header{Typeflag: tar.TypeSymlink, Linkname: "x", Mode: mode}}
		if f, err := e.file(); err != nil || f.Mode != erofs.TypeSymlink|0o777 {
			t.Errorf("mode %o: got %+v, %v", mode, f, err)
		}
	}
}
