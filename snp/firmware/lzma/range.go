package lzma

const topValue = 1 << 24

// decoder reads bits. After the end of its input it reads zeros and counts them, so
// its callers need not check for errors.
type decoder struct {
	in         []byte
	next       int
	width      uint32
	code       uint32
	missing    int
	outOfRange bool
}

func (d *decoder) byte() uint32 {
	if d.next >= len(d.in) {
		d.missing++
		return 0
	}
	d.next++
	return uint32(d.in[d.next-1])
}

func newDecoder(in []byte) *decoder {
	d := &decoder{in: in, width: 0xffffffff}
	d.outOfRange = d.byte() != 0
	for range 4 {
		d.code = d.code<<8 | d.byte()
	}
	d.outOfRange = d.outOfRange || d.code == d.width
	return d
}

func (d *decoder) normalize() {
	if d.width < topValue {
		d.width <<= 8
		d.code = d.code<<8 | d.byte()
	}
}

func (d *decoder) bit(p *prob, _ uint32) uint32 {
	d.normalize()
	bound := d.width >> probBits * uint32(*p)
	if d.code < bound {
		d.width = bound
		*p += (1<<probBits - *p) >> probMove
		return 0
	}
	d.width -= bound
	d.code -= bound
	*p -= *p >> probMove
	return 1
}

func (d *decoder) direct(n int, _ uint32) uint32 {
	v := uint32(0)
	for range n {
		d.normalize()
		d.width >>= 1
		b := flag(d.code >= d.width)
		d.code -= b * d.width
		v = v<<1 | b
	}
	return v
}

// encoder writes bits. It holds back the last byte and the run of 0xff after it,
// because a carry may still change them.
type encoder struct {
	out     []byte
	low     uint64
	width   uint32
	waiting int // bytes: first, then 0xff
	first   byte
}

func newEncoder() *encoder { return &encoder{width: 0xffffffff, waiting: 1} }

func (e *encoder) shift() {
	if e.low < 0xff000000 || e.low > 0xffffffff {
		carry := byte(e.low >> 32)
		for b := e.first; e.waiting > 0; e.waiting-- {
			e.out = append(e.out, b+carry)
			b = 0xff
		}
		e.first = byte(e.low >> 24)
	}
	e.waiting++
	e.low = e.low << 8 & 0xffffffff
}

func (e *encoder) normalize() {
	for e.width < topValue {
		e.width <<= 8
		e.shift()
	}
}

func (e *encoder) bit(p *prob, b uint32) uint32 {
	bound := e.width >> probBits * uint32(*p)
	if b == 0 {
		e.width = bound
		*p += (1<<probBits - *p) >> probMove
	} else {
		e.low += uint64(bound)
		e.width -= bound
		*p -= *p >> probMove
	}
	e.normalize()
	return b
}

func (e *encoder) direct(n int, v uint32) uint32 {
	for i := n - 1; i >= 0; i-- {
		e.width >>= 1
		e.low += uint64(v >> i & 1 * e.width)
		e.normalize()
	}
	return v
}

func (e *encoder) finish() []byte {
	for range 5 {
		e.shift()
	}
	return e.out
}
