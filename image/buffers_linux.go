package image

import (
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// buffers provides memory for chunks, in huge pages if the kernel has them. Direct I/O examines
// every page of a write. With 128 pages to a chunk that was a sixth of a build's time in the
// kernel.
type buffers struct {
	mu      sync.Mutex // guards the fields below
	free    [][]byte
	regions [][]byte // regions that close unmaps
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

// put takes back a buffer that get returned.
func (p *buffers) put(b []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.free = append(p.free, b[:chunkSize])
}

func (p *buffers) grow() {
	// Map twice the needed size, so that the mapping contains a whole huge page.
	region, err := unix.Mmap(-1, 0, 2*hugePage, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		panic("image: out of memory: " + err.Error())
	}
	p.regions = append(p.regions, region)
	skip := -uintptr(unsafe.Pointer(unsafe.SliceData(region))) % hugePage
	page := region[skip:][:hugePage]
	_ = unix.Madvise(page, unix.MADV_HUGEPAGE) // a hint to the kernel
	for ; len(page) > 0; page = page[chunkSize:] {
		p.free = append(p.free, page[:chunkSize:chunkSize])
	}
}

// close frees all memory. No buffer that get returned may be used afterwards.
func (p *buffers) close() {
	for _, region := range p.regions {
		if err := unix.Munmap(region); err != nil {
			panic("image: internal error: unmapping buffers: " + err.Error())
		}
	}
	p.regions, p.free = nil, nil
}
