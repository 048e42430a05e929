package rootfs

import (
	"errors"
	"fmt"
	"io"

	"github.com/rootvouch/rootvouch/image/erofs"
)

// WriteTo writes the filesystem to w, from its first byte to its last. The data
// of every file is read once. It returns the bytes written: Size, unless there
// is an error.
func (p *Plan) WriteTo(w io.Writer) (int64, error) {
	out := &stream{w: w}
	for _, part := range []func(*stream) error{p.writeInodes, p.writeDirectories, p.writeData} {
		if err := part(out); err != nil {
			return out.at, fmt.Errorf("writing the filesystem: %w", err)
		}
	}
	if out.at != p.Size {
		panic(fmt.Sprintf("rootfs: internal error: the filesystem has %d bytes, %d were planned", out.at, p.Size))
	}
	return out.at, nil
}

func (p *Plan) writeInodes(out *stream) error {
	superblock := erofs.Superblock{
		Root: uint16(p.root.place / erofs.InodeUnit), Inodes: p.inodes, Blocks: uint32(p.Size / BlockSize), Built: p.built, Chunked: p.chunked,
	}
	if err := out.pad(erofs.SuperblockAt); err != nil {
		return err
	}
	if err := out.write(superblock.Append(nil)); err != nil {
		return err
	}
	var buffer []byte
	err := p.walk(func(name filePath, n *inode) error {
		if err := out.pad(n.place); err != nil {
			return err
		}
		head, tail := p.describe(n)
		buffer = head.Append(buffer[:0], p.built)
		if tail > 0 {
			switch b := n.body.(type) {
			case *directory:
				buffer, _ = appendDirents(buffer, b.list)
			case symlink:
				buffer = append(buffer, b...)
			case *sparse:
				buffer = b.appendMap(buffer, n.size, p.data+int64(n.u))
			case Content:
				if err := out.write(buffer); err != nil {
					return err
				}
				return out.file(b, name.String(), n, []Extent{{0, n.size}})
			}
		}
		return out.write(buffer)
	})
	if err != nil {
		return err
	}
	return out.pad(p.dirs * BlockSize)
}

// appendDirents writes what fits of a directory into one block, and returns the
// rest.
func appendDirents(b []byte, list []dirent) ([]byte, []dirent) {
	fit, _ := erofs.DirentsInBlock(len(list), func(i int) string { return list[i].name })
	entries := make([]erofs.Dirent, fit)
	for i, e := range list[:fit] {
		entries[i] = erofs.Dirent{Name: e.name, Inode: uint64(e.n.place / erofs.InodeUnit), Mode: e.n.mode}
	}
	return erofs.AppendDirents(b, entries), list[fit:]
}

func (p *Plan) writeDirectories(out *stream) error {
	var buffer []byte
	return p.walk(func(_ filePath, n *inode) error {
		head, _ := p.describe(n)
		if !n.isDir() || head.Layout == erofs.Inline {
			return nil
		}
		for list := n.body.(*directory).list; len(list) > 0; {
			buffer, list = appendDirents(buffer[:0], list)
			if err := out.write(buffer); err != nil {
				return err
			}
			if err := out.fill(); err != nil {
				return err
			}
		}
		return nil
	})
}

func (p *Plan) writeData(out *stream) error {
	return p.walk(func(name filePath, n *inode) error {
		head, _ := p.describe(n)
		if head.Layout == erofs.Inline {
			return nil
		}
		var err error
		switch b := n.body.(type) {
		case symlink:
			err = out.write([]byte(b))
		case *sparse:
			err = out.file(b.Content, name.String(), n, b.data)
		case Content:
			if n.size > 0 {
				err = out.file(b, name.String(), n, []Extent{{0, n.size}})
			}
		}
		if err != nil {
			return err
		}
		return out.fill()
	})
}

// stream counts what goes to a writer.
type stream struct {
	w     io.Writer
	at    int64
	zeros [BlockSize]byte
	end   [1]byte // what is read to see that a file ends
}

func (s *stream) write(b []byte) error {
	n, err := s.w.Write(b)
	s.at += int64(n)
	return err
}

// pad writes zeros up to byte to.
func (s *stream) pad(to int64) error {
	for s.at < to {
		if err := s.write(s.zeros[:min(BlockSize, to-s.at)]); err != nil {
			return err
		}
	}
	return nil
}

// fill writes zeros up to the end of the block.
func (s *stream) fill() error { return s.pad(blocks(s.at) * BlockSize) }

// file writes the extents of a file, one after the other, and checks that the
// file has as many bytes as it should.
func (s *stream) file(c Content, name string, n *inode, data []Extent) error {
	f, err := c.Open(name, n.stored())
	if err != nil {
		return err
	}
	defer f.Close()
	at := int64(0) // in the file
	for _, e := range data {
		if err := skip(f, e.Start-at); err != nil {
			return err
		}
		copied, err := io.CopyN(s.w, f, e.End-e.Start)
		s.at += copied
		if err != nil {
			return shortened(err, n.size-e.Start-copied)
		}
		at = e.End
	}
	if err := skip(f, n.size-at); err != nil {
		return err
	}
	// At its end the source may report an error: a changed file, a bad checksum.
	if _, err := f.Read(s.end[:]); err != io.EOF {
		if err == nil {
			err = errGrown
		}
		return fmt.Errorf("reading to its end: %w", err)
	}
	return nil
}

// errGrown says that a file has more data than it had when it was listed.
var errGrown = errors.New("it has grown")

// skip passes over count bytes of a file.
func skip(f io.Reader, count int64) error {
	if count == 0 {
		return nil
	}
	if seeker, ok := f.(io.Seeker); ok {
		_, err := seeker.Seek(count, io.SeekCurrent)
		return err
	}
	skipped, err := io.CopyN(io.Discard, f, count)
	return shortened(err, count-skipped)
}

func shortened(err error, missing int64) error {
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("%w with %d bytes missing", io.ErrUnexpectedEOF, missing)
	}
	return err
}
