package intake

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"path"
	"strings"
)

// Names in layers that are not files (OCI Image Spec 1.1, layer.md, "Whiteouts"). Names with
// aufsPrefix belong to aufs, the filesystem that introduced whiteouts. Old images have its
// directories. One of them holds the files that have several names; hard links point there.
const (
	whiteout   = ".wh."
	opaque     = ".wh..wh..opq"
	aufsPrefix = ".wh..wh."
	aufsLinks  = ".wh..wh.plnk"
)

// readLayer applies a layer. Whiteouts apply only to lower layers, so they come first. Names
// are resolved as in a chroot: they begin at the root, and ".." at the root stays there. The
// layer needs no end marker: its digest was checked, so it is complete.
func (r *Reader) readLayer(ctx context.Context, data io.ReaderAt, size int64) error {
	err := readTar(ctx, data, size, true, func(e tarEntry) error {
		name := path.Clean("/" + e.Name)
		dir, base := path.Split(name)
		switch {
		case base == opaque:
			return r.Tree.Clear(dir)
		case !strings.HasPrefix(base, whiteout) || isAufs(name):
			return nil
		}
		hidden := strings.TrimPrefix(base, whiteout)
		if hidden == "" || hidden == "." || hidden == ".." || strings.HasPrefix(hidden, whiteout) {
			return fmt.Errorf("%q is not a whiteout", e.Name)
		}
		return r.Tree.Remove(dir + hidden)
	})
	if err != nil {
		return err
	}
	err = readTar(ctx, data, size, true, func(e tarEntry) error {
		if e.Typeflag == tar.TypeXGlobalHeader || e.Typeflag == typeLabel {
			return r.addEntry(e)
		}
		e.Name = path.Clean("/" + e.Name)
		if e.Typeflag == tar.TypeLink {
			e.Linkname = path.Clean("/" + e.Linkname)
		}
		// Keep the targets of this layer's hard links until its end.
		linked := path.Dir(e.Name) == "/"+aufsLinks && e.Typeflag == tar.TypeReg
		if !linked && (isAufs(e.Name) || strings.HasPrefix(path.Base(e.Name), whiteout)) {
			return nil
		}
		return r.replace(e)
	})
	if err != nil {
		return err
	}
	return r.Tree.Remove(aufsLinks)
}

// isAufs reports whether a clean name belongs to aufs itself.
func isAufs(name string) bool {
	first, _, _ := strings.Cut(strings.TrimPrefix(name, "/"), "/")
	return strings.HasPrefix(first, aufsPrefix) && first != opaque
}

// replace adds an entry. An upper layer may replace a directory by another kind of file.
func (r *Reader) replace(e tarEntry) error {
	if e.Typeflag != tar.TypeDir && e.Typeflag != typeDumpDir {
		if old, err := r.Tree.Lookup(e.Name); err == nil && old.IsDir() && old != r.Tree.Root() {
			if err := r.Tree.Remove(e.Name); err != nil {
				return err
			}
		}
	}
	return r.addEntry(e)
}
