package boltkv

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Kinds of pages, and sizes in bytes (bbolt, internal/common/page.go).
const (
	kindBranch   = 0x01
	kindLeaf     = 0x02
	kindFreelist = 0x10

	headerSize   = 16 // ID (8), kind (2), count of elements (2), further pages (4)
	elementSize  = 16
	bucketHeader = 16   // root page (8), sequence (8)
	isBucket     = 0x01 // flag of a leaf's element
	manyFree     = 0xffff
)

// verify reads a whole file. It refuses a file that could mislead a search or a transaction of
// bbolt:
//
//   - Every page that the file uses is used once, and is not on the list of free pages.
//   - The keys of a page are in order, and within the bounds that lead a search to the page.
//   - The elements of a page fill it without a gap, so that none was left out.
//   - The items have the number and the sum that the newest transaction left.
//
// It runs before bbolt opens the file, and only reads.
func verify(f *os.File) error {
	newest, valid, err := metas(f)
	if err != nil {
		return err
	}
	if valid < 2 {
		return fmt.Errorf("one of its two meta pages is invalid, so the last transaction may be missing: %w", errDamaged)
	}
	size := newest.pages * pageSize
	data, err := unix.Mmap(int(f.Fd()), 0, int(size), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("mapping: %w", err)
	}
	defer unix.Munmap(data)
	readAhead(data)
	return guarded(func() error { return newest.verify(data) })
}

// readAhead asks the kernel to read a mapping in the order of the disk. The tree has a different
// order, and would cost a fault for each page. If the kernel cannot read ahead, verify is slower.
func readAhead(data []byte) {
	const step = 16 << 20
	for at := 0; at < len(data); at += step {
		_ = unix.Madvise(data[at:min(at+2*step, len(data))], unix.MADV_WILLNEED)
		_ = unix.Madvise(data[at:min(at+step, len(data))], unix.MADV_POPULATE_READ)
	}
}

// verify is the part without the file: data has all pages.
func (m meta) verify(data []byte) error {
	v := &verifier{data: data, pages: m.pages, used: make([]uint64, m.pages/64+1)}
	if err := v.free(m.freelist); err != nil {
		return err
	}
	items, state, err := v.buckets(m.root)
	if err != nil {
		return err
	}
	found, err := v.tree(items)
	switch {
	case err != nil:
		return err
	case found.count != state.count:
		return fmt.Errorf("%d items, want %d: %w", found.count, state.count, errDamaged)
	case found.sum != state.sum:
		return fmt.Errorf("sum of all items is %016x, want %016x: %w", found.sum, state.sum, errDamaged)
	case found.rev > state.rev:
		return fmt.Errorf("an item has revision %d, want at most %d: %w", found.rev, state.rev, errDamaged)
	}
	return nil
}

type verifier struct {
	data  []byte
	pages uint64
	used  []uint64 // a bit for each page
}

// claim marks pages as used.
func (v *verifier) claim(id, n uint64) error {
	if id < 2 || id >= v.pages || n > v.pages-id {
		return fmt.Errorf("page %d and %d more: the file has pages 2 to %d: %w", id, n-1, v.pages-1, errDamaged)
	}
	for p := id; p < id+n; p++ {
		bit := uint64(1) << (p % 64)
		if atomic.OrUint64(&v.used[p/64], bit)&bit != 0 {
			return fmt.Errorf("page %d is used twice: %w", p, errDamaged)
		}
	}
	return nil
}

// page is one page with the further pages that it fills.
type page struct {
	id    uint64
	kind  uint16
	count int
	data  []byte
}

func (v *verifier) page(id uint64) (page, error) {
	if err := v.claim(id, 1); err != nil {
		return page{}, err
	}
	at := id * pageSize
	p, further := parseHeader(v.data[at : at+headerSize])
	if p.id != id {
		return page{}, fmt.Errorf("page %d says that it is page %d: %w", id, p.id, errDamaged)
	}
	if further > 0 {
		if err := v.claim(id+1, further); err != nil {
			return page{}, err
		}
	}
	p.data = v.data[at : at+(1+further)*pageSize]
	return p, nil
}

func parseHeader(data []byte) (p page, further uint64) {
	little := binary.LittleEndian
	return page{id: little.Uint64(data), kind: little.Uint16(data[8:]), count: int(little.Uint16(data[10:]))}, uint64(little.Uint32(data[12:]))
}

// free claims the pages on the list of free pages, and those that the list fills.
func (v *verifier) free(id uint64) error {
	p, err := v.page(id)
	if err != nil {
		return fmt.Errorf("list of free pages: %w", err)
	}
	count, list := uint64(p.count), p.data[headerSize:]
	if count == manyFree {
		count, list = binary.LittleEndian.Uint64(list), list[8:]
	}
	if p.kind != kindFreelist || count > uint64(len(list)/8) {
		return fmt.Errorf("page %d has kind %#x and %d elements, want the list of free pages: %w", id, p.kind, count, errDamaged)
	}
	for i := range count {
		if err := v.claim(binary.LittleEndian.Uint64(list[8*i:]), 1); err != nil {
			return fmt.Errorf("list of free pages: %w", err)
		}
	}
	return nil
}

// element is a key of a page, with its value or child page.
type element struct {
	key   []byte
	flags uint32 // of a leaf's
	value []byte // of a leaf's
	child uint64 // of a branch's
}

// each calls visit with a page's elements. Their keys must be at least low, and below high if
// high is set.
func (p page) each(low, high []byte, visit func(element) error) error {
	little := binary.LittleEndian
	end := headerSize + p.count*elementSize // end of the elements read so far
	if p.kind != kindLeaf && p.kind != kindBranch || end > len(p.data) || p.kind == kindBranch && p.count == 0 {
		return fmt.Errorf("page %d has kind %#x and %d elements: %w", p.id, p.kind, p.count, errDamaged)
	}
	for i := range p.count {
		at := headerSize + i*elementSize
		head := p.data[at : at+elementSize]
		var e element
		var pos, ksize, vsize int
		if p.kind == kindLeaf {
			e.flags = little.Uint32(head)
			pos, ksize, vsize = int(little.Uint32(head[4:])), int(little.Uint32(head[8:])), int(little.Uint32(head[12:]))
		} else {
			pos, ksize, e.child = int(little.Uint32(head)), int(little.Uint32(head[4:])), little.Uint64(head[8:])
		}
		if at+pos != end || ksize == 0 || ksize+vsize > len(p.data)-end {
			return fmt.Errorf("page %d: element %d is at byte %d, with %d and %d bytes, want it at byte %d of %d: %w", p.id, i, at+pos, ksize, vsize, end, len(p.data), errDamaged)
		}
		e.key, e.value = p.data[end:end+ksize], p.data[end+ksize:end+ksize+vsize]
		end += ksize + vsize
		switch order := bytes.Compare(e.key, low); {
		case order < 0, order == 0 && i > 0, high != nil && bytes.Compare(e.key, high) >= 0:
			return fmt.Errorf("page %d: key %q is out of its place: %w", p.id, e.key, errDamaged)
		}
		low = e.key
		if err := visit(e); err != nil {
			return err
		}
	}
	return nil
}

// buckets finds the root of the items, and reads the state.
func (v *verifier) buckets(root uint64) (items branch, s state, err error) {
	p, err := v.page(root)
	if err != nil {
		return items, s, err
	}
	var about page // the bucket about the items
	found := 0
	err = p.each(nil, nil, func(e element) error {
		if p.kind != kindLeaf || e.flags != isBucket || len(e.value) < bucketHeader {
			return fmt.Errorf("bucket %q is not a bucket: %w", e.key, errDamaged)
		}
		child := branch{id: binary.LittleEndian.Uint64(e.value)}
		if child.id == 0 { // within the element
			data := e.value[bucketHeader:]
			if len(data) < headerSize {
				return fmt.Errorf("bucket %q has %d bytes, want a page: %w", e.key, len(data), errDamaged)
			}
			inline, _ := parseHeader(data)
			inline.data = data
			child.inline = &inline
		}
		switch {
		case bytes.Equal(e.key, bucketItems):
			items = child
		case bytes.Equal(e.key, bucketMeta) && child.inline != nil:
			about = *child.inline
		default:
			return fmt.Errorf("bucket %q is unknown: %w", e.key, errDamaged)
		}
		found++
		return nil
	})
	switch {
	case err != nil:
		return items, s, err
	case found < 2:
		return items, s, fmt.Errorf("it has %d of the two buckets: it is not a key server's store, or it was damaged: %w", found, errDamaged)
	}
	var format, kept []byte
	err = about.each(nil, nil, func(e element) error {
		switch {
		case bytes.Equal(e.key, metaFormat):
			format = e.value
		case bytes.Equal(e.key, metaState):
			kept = e.value
		default:
			return fmt.Errorf("bucket %q has key %q, want %q and %q: %w", bucketMeta, e.key, metaFormat, metaState, errDamaged)
		}
		return nil
	})
	if err != nil {
		return items, s, err
	}
	if string(format) != fileFormat {
		return items, s, fmt.Errorf("format is %q, want %q", format, fileFormat)
	}
	s, err = decodeState(kept) // refuses a state that is absent
	return items, s, err
}

// branch is a page to read, and the bounds of its keys.
type branch struct {
	id        uint64
	inline    *page
	low, high []byte
}

// tree reads all items, on all processors.
func (v *verifier) tree(root branch) (state, error) {
	const enough = 256 // parts, so that they end at about the same time
	parts := []branch{root}
	var total state
	for len(parts) > 0 && len(parts) < enough {
		var next []branch
		for _, b := range parts {
			children, found, err := v.read(b)
			if err != nil {
				return total, err
			}
			total.add(found)
			next = append(next, children...)
		}
		parts = next
	}
	var mu sync.Mutex // guards total and all
	var all error
	var wg sync.WaitGroup
	var taken atomic.Int64
	for range runtime.GOMAXPROCS(0) {
		wg.Go(func() {
			var found state
			err := guarded(func() (err error) {
				for i := taken.Add(1) - 1; err == nil && int(i) < len(parts); i = taken.Add(1) - 1 {
					err = v.below(parts[i], &found)
				}
				return err
			})
			mu.Lock()
			defer mu.Unlock()
			total.add(found)
			all = errors.Join(all, err)
		})
	}
	wg.Wait()
	return total, all
}

// below reads a page and all that is below it.
func (v *verifier) below(b branch, found *state) error {
	children, here, err := v.read(b)
	if err != nil {
		return err
	}
	found.add(here)
	for _, child := range children {
		if err := v.below(child, found); err != nil {
			return err
		}
	}
	return nil
}

// read reads one page: its items if it is a leaf, or the pages below it.
func (v *verifier) read(b branch) (children []branch, found state, err error) {
	var p page
	if b.inline != nil {
		p = *b.inline
	} else if p, err = v.page(b.id); err != nil {
		return nil, found, err
	}
	if p.kind == kindBranch {
		children = make([]branch, 0, p.count)
	}
	err = p.each(b.low, b.high, func(e element) error {
		if p.kind == kindBranch {
			if n := len(children); n > 0 {
				children[n-1].high = e.key
			}
			children = append(children, branch{id: e.child, low: e.key, high: b.high})
			return nil
		}
		mod, _, err := unpack(e.key, e.value)
		if err == nil && e.flags != 0 {
			err = fmt.Errorf("item %q has flags %#x: %w", e.key, e.flags, errDamaged)
		}
		found.add(state{rev: uint64(mod), count: 1, sum: sumOf(e.value)})
		return err
	})
	return children, found, err
}
