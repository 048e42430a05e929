package image

import (
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// buffers hands out memory for chunks. It lies in huge pages where the kernel has
// them: direct I/O looks at every page of a write, and with 128 pages to a chunk
// that was a sixth of a build's time in the kernel.
type buffers struct {
	mu      sync.Mutex // guards what follows
	free    [][]byte
	regions [][]byte // to unmap
}

// hugePage is the size of a huge page in bytes; a chunk divides it.
const hugePage = 2 << 20

// get returns chunkSize bytes, aligned to a block, with undefined contents.
func (p *buffers) get() []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.free) == 0 {
		p.grow()
	}
	last := len(p.free) - 1
	b := p.free[last]
	p.free = p.free[:last]
	return b
}

// put takes back what get returned.
func (p *buffers) put(b []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.free = append(p.free, b[:chunkSize])
}

func (p *buffers) grow() {
	// Twice as much as is used, so that a whole huge page lies in it.
	region, err := unix.Mmap(-1, 0, 2*hugePage, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		panic("image: out of memory: " + err.Error())
	}
	p.regions = append(p.regions, region)
	skip := -uintptr(unsafe.Pointer(unsafe.SliceData(region))) % hugePage
	page := region[skip:][:hugePage]
	_ = unix.Madvise(page, unix.MADV_HUGEPAGE) // a wish
	for ; len(page) > 0; page = page[chunkSize:] {
		p.free = append(p.free, page[:chunkSize:chunkSize])
	}
}

// close gives all memory back; nothing that get returned may be used any more.
func (p *buffers) close() {
	for _, region := range p.regions {
		if err := unix.Munmap(region); err != nil {
			panic("image: internal error: unmapping buffers: " + err.Error())
		}
	}
	p.regions, p.free = nil, nil
}
