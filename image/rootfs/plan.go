package rootfs

import (
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"

	"github.com/erofs/go-erofs"
)

// BlockSize is the block size of the filesystem in bytes.
const BlockSize = 4096

// Plan is the layout of a filesystem: its size is known before any data is
// read, so everything that follows it can be placed.
type Plan struct {
	// Size of the filesystem in bytes, a multiple of BlockSize.
	Size int64

	view    *view
	patches []patch
}

// patch replaces bytes of what go-erofs writes.
type patch struct {
	offset   int64
	old, new [8]byte
}

// Plan lays the filesystem out by writing it once without its data. The tree
// must not change afterwards.
func (t *Tree) Plan() (*Plan, error) {
	v := &view{root: t.root, first: map[*Inode]string{}}
	v.findFirst(t.root, ".")
	sketch := &sketch{forget: len(v.first) == 0}
	v.open = func(n *Inode) io.ReadCloser { return &nothing{sketch, n.Size} }
	if err := v.write(sketch); err != nil {
		return nil, fmt.Errorf("laying out the filesystem: %w", err)
	}
	v.open = nil // and with it the sketch
	p := &Plan{Size: sketch.size, view: v}
	if p.Size == 0 || p.Size%BlockSize != 0 {
		panic(fmt.Sprintf("rootfs: internal error: go-erofs wrote %d bytes", p.Size))
	}
	if err := p.findPatches(sketch); err != nil {
		return nil, fmt.Errorf("placing hard links: %w", err)
	}
	return p, nil
}

// findFirst records the first name of every inode that has several.
func (v *view) findFirst(dir *Inode, prefix string) {
	for _, name := range dir.names() {
		child, full := dir.entries[name], path.Join(prefix, name)
		if child.Mode.IsDir() {
			v.findFirst(child, full)
		} else if _, ok := v.first[child]; !ok && child.links > 1 {
			v.first[child] = full
		}
	}
}

// write runs go-erofs over the view. The filesystem's build time is that of the
// newest file, so that the same tree gives the same bytes.
func (v *view) write(out io.WriteSeeker) error {
	newest := v.root.ModTime
	var walk func(n *Inode)
	walk = func(n *Inode) {
		if n.ModTime.After(newest) {
			newest = n.ModTime
		}
		for _, child := range n.entries {
			walk(child)
		}
	}
	walk(v.root)
	w := erofs.Create(out, erofs.WithBlockSize(BlockSize), erofs.WithBuildTime(uint64(newest.Unix()), 0))
	if err := w.CopyFrom(v); err != nil {
		return err
	}
	return w.Close()
}

// WriteTo writes the filesystem to out, which must be empty and at its start.
// Blocks come in order, except that the first one is written twice: as zeros at
// the start, and after everything else.
func (p *Plan) WriteTo(out io.WriteSeeker) error {
	p.view.open = func(n *Inode) io.ReadCloser {
		file, err := n.Open()
		if err != nil {
			return broken{err}
		}
		return file
	}
	w := &patcher{out: out, patches: p.patches}
	if err := p.view.write(w); err != nil {
		return fmt.Errorf("writing the filesystem: %w", err)
	}
	if w.end != p.Size {
		return fmt.Errorf("writing the filesystem: got %d bytes, want %d as planned", w.end, p.Size)
	}
	return nil
}

// broken is a file that could not be opened.
type broken struct{ err error }

func (b broken) Read([]byte) (int, error) { return 0, b.err }
func (b broken) Close() error             { return nil }

// sketch is the destination of the layout run: it keeps metadata and forgets
// the data of files, which nothing makes up.
type sketch struct {
	at, size int64
	forget   bool // keep nothing but the size
	extents  []extent
	data     *byte // where nothing.Read was last asked to put data
}

type extent struct {
	offset int64
	bytes  []byte
}

// nothing reads as data of the right length without touching the buffer.
type nothing struct {
	sketch *sketch
	left   int64
}

func (n *nothing) Read(b []byte) (int, error) {
	if n.left == 0 {
		return 0, io.EOF
	}
	n.sketch.data = &b[0]
	count := min(n.left, int64(len(b)))
	n.left -= count
	return int(count), nil
}

func (n *nothing) Close() error { return nil }

func (s *sketch) Write(b []byte) (int, error) {
	if len(b) > 0 && &b[0] != s.data && !zero(b) && !s.forget {
		// Directories come in many small writes.
		if last := len(s.extents) - 1; last >= 0 && s.extents[last].offset+int64(len(s.extents[last].bytes)) == s.at {
			s.extents[last].bytes = append(s.extents[last].bytes, b...)
		} else {
			s.extents = append(s.extents, extent{s.at, slices.Clone(b)})
		}
	}
	s.at += int64(len(b))
	s.size = max(s.size, s.at)
	return len(b), nil
}

func (s *sketch) Seek(offset int64, whence int) (int64, error) {
	if whence != io.SeekStart {
		panic("rootfs: internal error: go-erofs seeks from elsewhere than the start")
	}
	s.at = offset
	return offset, nil
}

// ReadAt reads what was kept, and zeros elsewhere.
func (s *sketch) ReadAt(b []byte, offset int64) (int, error) {
	clear(b)
	for _, e := range s.extents {
		if from := offset - e.offset; from >= 0 && from < int64(len(e.bytes)) {
			copy(b, e.bytes[from:])
		} else if from < 0 && -from < int64(len(b)) {
			copy(b[-from:], e.bytes)
		}
	}
	return len(b), nil
}

// patcher applies patches to a stream with few, forward writes.
type patcher struct {
	out     io.WriteSeeker
	at, end int64
	patches []patch // sorted by offset
}

func (w *patcher) Seek(offset int64, whence int) (int64, error) {
	at, err := w.out.Seek(offset, whence)
	w.at = at
	return at, err
}

func (w *patcher) Write(b []byte) (int, error) {
	first, _ := slices.BinarySearchFunc(w.patches, w.at-7, func(p patch, at int64) int { return int(p.offset - at) })
	if first < len(w.patches) && w.patches[first].offset < w.at+int64(len(b)) {
		b = slices.Clone(b)
		for _, p := range w.patches[first:] {
			for i := range p.new {
				if at := p.offset + int64(i) - w.at; at >= 0 && at < int64(len(b)) {
					// The superblock's place is written as zeros first.
					if b[at] != p.old[i] && b[at] != 0 {
						panic("rootfs: internal error: go-erofs wrote another layout than planned")
					}
					b[at] = p.new[i]
				}
			}
			if p.offset >= w.at+int64(len(b)) {
				break
			}
		}
	}
	n, err := w.out.Write(b)
	w.at += int64(n)
	w.end = max(w.end, w.at)
	return n, err
}

var _ interface {
	fs.FS
	fs.StatFS
	fs.ReadDirFS
} = (*view)(nil)

// le reads little-endian numbers.
var le = binary.LittleEndian

func zero(b []byte) bool {
	for _, c := range b {
		if c != 0 {
			return false
		}
	}
	return true
}
