package image

import (
	"encoding/binary"
	"fmt"
)

// Format is the form of a disk in a file.
type Format string

// The formats. Raw is the disk's bytes; QCOW2 is QEMU's, without compression,
// encryption, snapshots or a backing file.
const (
	Raw   Format = "raw"
	QCOW2 Format = "qcow2"
)

// ParseFormat reads a format's name.
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
	qcowPerTable    = qcowCluster / 8 // entries of an L2 table or the refcount table
	qcowPerBlock    = qcowCluster / 2 // refcounts of 16 bits
	qcowCopied      = 1 << 63         // QCOW_OFLAG_COPIED: the refcount is exactly 1
)

// qcow2Output writes a disk as qcow2: all metadata first, then the disk's
// clusters in order, so that what is written lands at a fixed distance.
type qcow2Output struct {
	Output
	start int64 // byte of the file where the disk's byte 0 is
}

func ceil(a, b uint64) uint64 { return (a + b - 1) / b }

// Truncate sizes the disk and writes the metadata.
func (q *qcow2Output) Truncate(size int64) error {
	data := ceil(uint64(size), qcowCluster)
	l2 := ceil(data, qcowPerTable)
	l1 := ceil(l2*8, qcowCluster)
	// The refcount blocks count themselves and their table, too.
	var blocks, table uint64
	for {
		all := 1 + table + blocks + l1 + l2 + data
		if b := ceil(all, qcowPerBlock); b != blocks {
			blocks = b
		} else if t := ceil(blocks, qcowPerTable); t != table {
			table = t
		} else {
			break
		}
	}
	tableAt, blocksAt := uint64(1), 1+table
	l1At := blocksAt + blocks
	l2At := l1At + l1
	dataAt := l2At + l2
	q.start = int64(dataAt * qcowCluster)
	if err := q.Output.Truncate(int64((dataAt + data) * qcowCluster)); err != nil {
		return err
	}
	header := make([]byte, qcowHeaderSize)
	be := binary.BigEndian
	copy(header, "QFI\xfb")
	be.PutUint32(header[4:], 3) // version
	be.PutUint32(header[20:], qcowClusterBits)
	be.PutUint64(header[24:], uint64(size))
	be.PutUint32(header[36:], uint32(l2)) // entries of the L1 table
	be.PutUint64(header[40:], l1At*qcowCluster)
	be.PutUint64(header[48:], tableAt*qcowCluster)
	be.PutUint32(header[56:], uint32(table))
	be.PutUint32(header[96:], 4) // refcount_order: 16 bits
	be.PutUint32(header[100:], qcowHeaderSize)
	if _, err := q.Output.WriteAt(header, 0); err != nil {
		return err
	}
	for _, part := range []struct {
		at, count, target, flag uint64
	}{
		{tableAt, blocks, blocksAt, 0},
		{l1At, l2, l2At, qcowCopied},
		{l2At, data, dataAt, qcowCopied},
	} {
		if err := q.pointers(part.at, part.count, part.target, part.flag); err != nil {
			return err
		}
	}
	return q.refcounts(blocksAt, dataAt+data)
}

// pointers writes a table, at a cluster, of count consecutive clusters from
// target.
func (q *qcow2Output) pointers(at, count, target, flag uint64) error {
	buffer := make([]byte, 0, qcowCluster)
	for i := range count {
		buffer = binary.BigEndian.AppendUint64(buffer, (target+i)*qcowCluster|flag)
		if len(buffer) == cap(buffer) || i == count-1 {
			if _, err := q.Output.WriteAt(buffer, int64(at*qcowCluster+(i+1)*8)-int64(len(buffer))); err != nil {
				return err
			}
			buffer = buffer[:0]
		}
	}
	return nil
}

// refcounts says that the first count clusters of the file are used once.
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

// WriteBulkAt writes chunks to the disk, past the page cache if that can be.
func (q *qcow2Output) WriteBulkAt(b []byte, offset int64) (int, error) {
	return bulk(q.Output)(b, q.start+offset)
}
