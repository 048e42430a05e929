package image

import (
	"context"
	"io"

	"github.com/rootvouch/rootvouch/image/rootfs"
	"github.com/rootvouch/rootvouch/pins"
)

// Source is a root filesystem: a Tree or a finished image.
type Source struct {
	plan       *rootfs.Plan // the EROFS to write, or nil
	finished   io.ReaderAt
	size       int64
	filesystem pins.Filesystem
	init       pins.Init
}

// Tree is a source that writes an EROFS filesystem of the tree's files. init says what was
// found about the tree's init. The tree must not change afterwards.
func Tree(t *rootfs.Tree, init pins.Init) (Source, error) {
	plan, err := t.Plan()
	if err != nil {
		return Source{}, err
	}
	return Source{plan: plan, size: plan.Size, filesystem: pins.EROFS, init: init}, nil
}

// Size returns the filesystem's size in bytes.
func (s Source) Size() int64 { return s.size }

// Filesystem returns the filesystem's kind.
func (s Source) Filesystem() pins.Filesystem { return s.filesystem }

// feed returns the sealer's source of chunks, and a function that must run beside it.
func (s Source) feed(to *sealer) (feed, func(context.Context) error) {
	if s.plan == nil {
		return to.readChunks(s.finished, s.size), nil
	}
	chunks := make(chan chunk)
	return receive(chunks), func(ctx context.Context) error {
		defer close(chunks)
		c := &chunker{ctx: ctx, chunks: chunks, sealer: to}
		if _, err := s.plan.WriteTo(c); err != nil {
			return err
		}
		return c.flush()
	}
}
