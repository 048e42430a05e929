package image

import (
	"encoding/binary"
	"fmt"
)

// Format is the form of a disk in a file.
type Format string

// The formats. Raw is the disk's bytes. QCOW2 is QEMU's format, without compression,
// encryption, snapshots or a backing file.
const (
	Raw   Format = "raw"
	QCOW2 Format = "qcow2"
)

// ParseFormat parses a format's name.
func ParseFormat(s string) (Format, error) {
	switch f := Format(s); f {
	case Raw, QCOW2:
		return f, nil
	}
	return "", fmt.Errorf("format is %q, want raw or qcow2", s)
}

// qcow2 (QEMU, docs/interop/qcow2.rst, version 3), sizes in bytes.
const (
	qcowCluster     = 1 << qcowClusterBits
	qcowClusterBits = 16
	qcowHeaderSize  = 104
	qcowMagic       = "QFI\xfb"
	qcowSizeAt      = 24
	qcowPerTable    = qcowCluster / 8 // entries of an L2 table or the refcount table
	qcowPerBlock    = qcowCluster / 2 // refcounts of 16 bits
	qcowCopied      = 1 << 63         // QCOW_OFLAG_COPIED: the refcount is exactly 1
)

// qcow2Output writes a disk as qcow2: all metadata first, then the disk's clusters in order. So
// the disk's data have a fixed offset in the file.
type qcow2Output struct {
	Output
	start int64 // offset of the disk's byte 0 in the file
}

func ceil(a, b uint64) uint64 { return (a + b - 1) / b }

// qcow2Layout has the places and sizes of a file's parts, in clusters. The parts follow one
// another in this order, after the header's cluster.
type qcow2Layout struct {
	size uint64 // of the disk, in bytes

	tableAt, table   uint64 // refcount table
	blocksAt, blocks uint64 // refcount blocks
	l1At             uint64
	l2At, l2         uint64
	dataAt, data     uint64
}

func layQCOW2(size uint64) qcow2Layout {
	l := qcow2Layout{size: size, data: ceil(size, qcowCluster)}
	l.l2 = ceil(l.data, qcowPerTable)
	l1 := ceil(l.l2*8, qcowCluster)
	// The refcount blocks count themselves and their table, too.
	for {
		all := 1 + l.table + l.blocks + l1 + l.l2 + l.data
		if b := ceil(all, qcowPerBlock); b != l.blocks {
			l.blocks = b
		} else if t := ceil(l.blocks, qcowPerTable); t != l.table {
			l.table = t
		} else {
			break
		}
	}
	l.tableAt, l.blocksAt = 1, 1+l.table
	l.l1At = l.blocksAt + l.blocks
	l.l2At = l.l1At + l1
	l.dataAt = l.l2At + l.l2
	return l
}

// fileSize returns the bytes of the file.
func (l qcow2Layout) fileSize() int64 { return int64((l.dataAt + l.data) * qcowCluster) }

func (l qcow2Layout) header() []byte {
	header := make([]byte, qcowHeaderSize)
	be := binary.BigEndian
	copy(header, qcowMagic)
	be.PutUint32(header[4:], 3) // version
	be.PutUint32(header[20:], qcowClusterBits)
	be.PutUint64(header[qcowSizeAt:], l.size)
	be.PutUint32(header[36:], uint32(l.l2)) // entries of the L1 table
	be.PutUint64(header[40:], l.l1At*qcowCluster)
	be.PutUint64(header[48:], l.tableAt*qcowCluster)
	be.PutUint32(header[56:], uint32(l.table))
	be.PutUint32(header[96:], 4) // refcount_order: 16 bits
	be.PutUint32(header[100:], qcowHeaderSize)
	return header
}

// pointers calls do with each cluster of the tables, and its offset in the file. The tables are
// the refcount table, L1 and L2. Their entries point to consecutive clusters.
func (l qcow2Layout) pointers(do func(b []byte, offset int64) error) error {
	buffer := make([]byte, 0, qcowCluster)
	for _, part := range []struct {
		at, count, target, flag uint64
	}{
		{l.tableAt, l.blocks, l.blocksAt, 0},
		{l.l1At, l.l2, l.l2At, qcowCopied},
		{l.l2At, l.data, l.dataAt, qcowCopied},
	} {
		for i := range part.count {
			buffer = binary.BigEndian.AppendUint64(buffer, (part.target+i)*qcowCluster|part.flag)
			if len(buffer) == cap(buffer) || i == part.count-1 {
				if err := do(buffer, int64(part.at*qcowCluster+(i+1)*8)-int64(len(buffer))); err != nil {
					return err
				}
				buffer = buffer[:0]
			}
		}
	}
	return nil
}

// Truncate sizes the disk and writes the metadata.
func (q *qcow2Output) Truncate(size int64) error {
	l := layQCOW2(uint64(size))
	q.start = int64(l.dataAt * qcowCluster)
	if err := q.Output.Truncate(l.fileSize()); err != nil {
		return err
	}
	if _, err := q.Output.WriteAt(l.header(), 0); err != nil {
		return err
	}
	err := l.pointers(func(b []byte, offset int64) error {
		_, err := q.Output.WriteAt(b, offset)
		return err
	})
	if err != nil {
		return err
	}
	return q.refcounts(l.blocksAt, l.dataAt+l.data)
}

// refcounts writes that the first count clusters of the file are used once.
func (q *qcow2Output) refcounts(at, count uint64) error {
	buffer := make([]byte, qcowCluster)
	for i := range buffer {
		buffer[i] = byte(i & 1) // 00 01 00 01
	}
	for offset := at * qcowCluster; count > 0; offset += qcowCluster {
		n := min(count, qcowPerBlock)
		if _, err := q.Output.WriteAt(buffer[:2*n], int64(offset)); err != nil {
			return err
		}
		count -= n
	}
	return nil
}

// WriteAt writes to the disk.
func (q *qcow2Output) WriteAt(b []byte, offset int64) (int, error) {
	return q.Output.WriteAt(b, q.start+offset)
}

// Reserve takes space for the metadata and the disk's first size bytes.
func (q *qcow2Output) Reserve(size int64) error { return reserve(q.Output, q.start+size) }

// WriteBulkAt writes chunks to the disk, past the page cache if possible.
func (q *qcow2Output) WriteBulkAt(b []byte, offset int64) (int, error) {
	return bulk(q.Output)(b, q.start+offset)
}
