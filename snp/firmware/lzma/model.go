package lzma

import "math/bits"

// Sizes of the format (LZMA specification, 2015-06-14, "The main loop of
// decoder").
const (
	states      = 12
	maxPB       = 4
	lenStates   = 4
	slotBits    = 6
	alignBits   = 4
	minMatch    = 2
	maxMatch    = minMatch + 8 + 8 + 256 - 1
	literalSize = 0x300
	literals    = 7 // states below it follow a literal

	probBits = 11
	probInit = 1 << (probBits - 1)
	probMove = 5
)

type prob = uint16

// coder is one direction of the range coder. An encoder writes the bits of the
// argument and returns them. A decoder ignores the argument and returns the bits
// that it reads. So one model serves both.
type coder interface {
	bit(p *prob, b uint32) uint32
	direct(n int, v uint32) uint32
}

// model is the state that encoder and decoder share.
type model struct {
	Properties
	state int
	reps  [4]int // the last distances, from 1 on

	isMatch    [states][1 << maxPB]prob
	isRep      [states]prob
	isRepG0    [states]prob
	isRepG1    [states]prob
	isRepG2    [states]prob
	isRep0Long [states][1 << maxPB]prob
	slots      [lenStates][1 << slotBits]prob
	special    [1 + 128 - 14]prob
	align      [1 << alignBits]prob
	matchLen   lengths
	repLen     lengths
	literal    []prob
}

type lengths struct {
	choice [2]prob
	low    [1 << maxPB][8]prob
	mid    [1 << maxPB][8]prob
	high   [256]prob
}

func newModel(p Properties) *model {
	m := &model{Properties: p, reps: [4]int{1, 1, 1, 1}, literal: make([]prob, literalSize<<(p.LC+p.LP))}
	reset(m.literal, m.isRep[:], m.isRepG0[:], m.isRepG1[:], m.isRepG2[:], m.special[:], m.align[:])
	for i := range states {
		reset(m.isMatch[i][:], m.isRep0Long[i][:])
	}
	for i := range m.slots {
		reset(m.slots[i][:])
	}
	for _, l := range []*lengths{&m.matchLen, &m.repLen} {
		reset(l.choice[:], l.high[:])
		for i := range l.low {
			reset(l.low[i][:], l.mid[i][:])
		}
	}
	return m
}

func reset(tables ...[]prob) {
	for _, t := range tables {
		for i := range t {
			t[i] = probInit
		}
	}
}

// next codes one operation at the end of done, and the literal's byte. A decoder
// passes the zero Op and gets the operation of the stream.
func (m *model) next(c coder, done []byte, o Op, literal byte) (Op, byte) {
	at := len(done) & (1<<m.PB - 1)
	if c.bit(&m.isMatch[m.state][at], flag(o.Distance != 0)) == 0 {
		b := m.codeLiteral(c, done, literal)
		m.state = afterLiteral(m.state)
		return Op{Length: 1}, b
	}
	rep := m.repOf(o)
	if c.bit(&m.isRep[m.state], flag(rep >= 0)) == 0 {
		return m.codeMatch(c, at, o), 0
	}
	short := flag(o.Length > 1)
	index := m.codeRep(c, at, rep, &short)
	distance := m.reps[index]
	copy(m.reps[1:index+1], m.reps[:index])
	m.reps[0] = distance
	if short == 0 {
		m.state = choose(m.state, 9, 11)
		return Op{Length: 1, Distance: distance}, 0
	}
	length := m.repLen.code(c, at, o.Length)
	m.state = choose(m.state, 8, 11)
	return Op{Length: length, Distance: distance}, 0
}

// repOf returns which of the last distances o repeats, or -1.
func (m *model) repOf(o Op) int {
	if o.Fresh {
		return -1
	}
	for i, d := range m.reps {
		if d == o.Distance && (i == 0 || o.Length > 1) {
			return i
		}
	}
	return -1
}

// codeRep codes which distance is repeated. For the last distance it also codes
// whether more than one byte is copied.
func (m *model) codeRep(c coder, at, rep int, long *uint32) int {
	if c.bit(&m.isRepG0[m.state], flag(rep != 0)) == 0 {
		*long = c.bit(&m.isRep0Long[m.state][at], *long)
		return 0
	}
	*long = 1
	if c.bit(&m.isRepG1[m.state], flag(rep != 1)) == 0 {
		return 1
	}
	if c.bit(&m.isRepG2[m.state], flag(rep != 2)) == 0 {
		return 2
	}
	return 3
}

func (m *model) codeMatch(c coder, at int, o Op) Op {
	length := m.matchLen.code(c, at, o.Length)
	distance := m.codeDistance(c, min(length-minMatch, lenStates-1), uint32(o.Distance-1))
	got := Op{Length: length, Distance: int(distance) + 1}
	for _, d := range m.reps {
		got.Fresh = got.Fresh || d == got.Distance
	}
	copy(m.reps[1:], m.reps[:3])
	m.reps[0] = got.Distance
	m.state = choose(m.state, 7, 10)
	return got
}

// codeLiteral codes one byte. After a match, the next byte of the match's source
// selects the probabilities.
func (m *model) codeLiteral(c coder, done []byte, literal byte) byte {
	previous := 0
	if len(done) > 0 {
		previous = int(done[len(done)-1])
	}
	context := (len(done)&(1<<m.LP-1))<<m.LC + previous>>(8-m.LC)
	table := m.literal[literalSize*context : literalSize*(context+1)]
	matched, offset := uint32(0), uint32(0)
	if m.state >= literals && m.reps[0] <= len(done) {
		matched, offset = uint32(done[len(done)-m.reps[0]]), 0x100
	}
	symbol := uint32(1)
	for i := 7; i >= 0; i-- {
		matched <<= 1
		expected := matched & offset
		b := c.bit(&table[offset+expected+symbol], uint32(literal)>>i&1)
		symbol = symbol<<1 | b
		if b == 0 {
			expected = ^expected
		}
		offset &= expected
	}
	return byte(symbol)
}

func (m *model) codeDistance(c coder, lenState int, distance uint32) uint32 {
	slot := tree(c, m.slots[lenState][:], slotBits, slotOf(distance))
	if slot < 4 {
		return slot
	}
	low := int(slot>>1) - 1 // bits below the two that the slot stands for
	base := (2 | slot&1) << low
	rest := distance - base
	if slot < 14 {
		return base + reverse(c, m.special[base-slot:], low, rest)
	}
	high := c.direct(low-alignBits, rest>>alignBits)
	return base + high<<alignBits + reverse(c, m.align[:], alignBits, rest)
}

// slotOf returns the slot of a distance: its top two bits and their position.
func slotOf(distance uint32) uint32 {
	if distance < 4 {
		return distance
	}
	n := uint32(bits.Len32(distance)) - 1
	return n<<1 | distance>>(n-1)&1
}

func (l *lengths) code(c coder, at, length int) int {
	n := uint32(max(length-minMatch, 0))
	if c.bit(&l.choice[0], flag(n >= 8)) == 0 {
		return minMatch + int(tree(c, l.low[at][:], 3, n))
	}
	if c.bit(&l.choice[1], flag(n >= 16)) == 0 {
		return minMatch + 8 + int(tree(c, l.mid[at][:], 3, n-8))
	}
	return minMatch + 16 + int(tree(c, l.high[:], 8, n-16))
}

// tree codes n bits, the highest first.
func tree(c coder, table []prob, n int, v uint32) uint32 {
	node := uint32(1)
	for i := n - 1; i >= 0; i-- {
		node = node<<1 | c.bit(&table[node], v>>i&1)
	}
	return node - 1<<n
}

// reverse codes n bits, the lowest first.
func reverse(c coder, table []prob, n int, v uint32) uint32 {
	node, got := uint32(1), uint32(0)
	for i := range n {
		b := c.bit(&table[node], v>>i&1)
		node = node<<1 | b
		got |= b << i
	}
	return got
}

func afterLiteral(state int) int {
	switch {
	case state < 4:
		return 0
	case state < 10:
		return state - 3
	}
	return state - 6
}

func choose(state, afterLiteral, afterMatch int) int {
	if state < literals {
		return afterLiteral
	}
	return afterMatch
}

func flag(b bool) uint32 {
	if b {
		return 1
	}
	return 0
}
