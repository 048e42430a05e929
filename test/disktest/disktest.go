// Package disktest serves disks that lose what they were not told to keep.
//
// A disk has a cache, as real disks have. A write is acknowledged when it is in the cache.
// A flush makes every write before it durable in a file. At a power cut of the host the
// cache is lost, or a part of it gets to the file, in any order.
//
// The protocol is NBD (github.com/NetworkBlockDevice/nbd, doc/proto.md), of which QEMU
// speaks the client's side: the fixed newstyle negotiation with NBD_OPT_GO, and simple
// replies.
package disktest

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// sectorSize is what a disk writes whole or not at all, in bytes.
const sectorSize = 512

// Disk is one disk. It serves one client at a time or several: they see the same bytes.
type Disk struct {
	socket  string
	size    uint64
	clients sync.WaitGroup

	mu      sync.Mutex
	file    *os.File
	cache   map[uint64][sectorSize]byte // :: number of a sector -> what it holds and is not durable
	flushes int
	err     error // the first of a client's that is not the end of its connection
}

// Serve serves a file until the test ends. The size of the file is a multiple of a sector's.
func Serve(t testing.TB, path string) *Disk {
	t.Helper()
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	info, err := file.Stat()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "nbd") // short: a socket's path has 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	d := &Disk{socket: filepath.Join(dir, "s"), size: uint64(info.Size()), file: file, cache: map[uint64][sectorSize]byte{}}
	listener, err := net.Listen("unix", d.socket)
	if err != nil {
		t.Fatal(err)
	}
	accepting := make(chan struct{})
	go func() {
		defer close(accepting)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			d.clients.Go(func() { d.note(d.serve(conn)) })
		}
	}()
	t.Cleanup(func() {
		listener.Close()
		<-accepting
		d.clients.Wait()
		file.Close()
		os.RemoveAll(dir)
		if d.err != nil {
			t.Errorf("disktest: %v", d.err)
		}
	})
	return d
}

// URL is how QEMU finds the disk.
func (d *Disk) URL() string { return "nbd+unix:///?socket=" + d.socket }

// Flushes is how often a client had its writes made durable.
func (d *Disk) Flushes() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.flushes
}

// Cut is a power cut of the host, whose clients have ended: it waits until all that they sent
// has arrived. Of each sector that was not made durable, survives says whether it got to the
// file all the same. Cut returns how many did not.
func (d *Disk) Cut(survives func() bool) (lost int, err error) {
	d.clients.Wait()
	d.mu.Lock()
	defer d.mu.Unlock()
	for sector, data := range d.cache {
		if !survives() {
			lost++
		} else if _, err := d.file.WriteAt(data[:], int64(sector*sectorSize)); err != nil {
			return lost, err
		}
	}
	clear(d.cache)
	return lost, nil
}

func (d *Disk) note(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var closed *net.OpError // of a client that was killed
	if d.err == nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.As(err, &closed) {
		d.err = err
	}
}

// read reads what a client would.
func (d *Disk) read(b []byte, at uint64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, err := d.file.ReadAt(b, int64(at)); err != nil {
		return err
	}
	for i := uint64(0); i < uint64(len(b)); i += sectorSize {
		if data, ok := d.cache[(at+i)/sectorSize]; ok {
			copy(b[i:], data[:])
		}
	}
	return nil
}

func (d *Disk) write(b []byte, at uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := uint64(0); i < uint64(len(b)); i += sectorSize {
		d.cache[(at+i)/sectorSize] = [sectorSize]byte(b[i:])
	}
}

// flush makes the cache durable. The file stays with the machine that runs the test, so
// that there is no sync.
func (d *Disk) flush() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.flushes++
	for sector, data := range d.cache {
		if _, err := d.file.WriteAt(data[:], int64(sector*sectorSize)); err != nil {
			return err
		}
	}
	clear(d.cache)
	return nil
}

// Numbers of the protocol, by their names there.
const (
	nbdMagic       = 0x4e42444d41474943
	optionMagic    = 0x49484156454f5054
	optionReply    = 0x0003e889045565a9
	fixedNewstyle  = 1
	optionAbort    = 2
	optionGo       = 7
	replyAck       = 1
	replyInfo      = 3
	replyUnsup     = 1<<31 | 1
	infoExport     = 0
	requestMagic   = 0x25609513
	simpleReply    = 0x67446698
	commandRead    = 0
	commandWrite   = 1
	commandDisc    = 2
	commandFlush   = 3
	commandFUA     = 1 // flag
	exportFlags    = 1 | 1<<2 | 1<<3
	maxRequest     = 32 << 20 // bytes
	invalidRequest = 22       // EINVAL
)

func (d *Disk) serve(conn net.Conn) error {
	defer conn.Close()
	r, w := bufio.NewReader(conn), bufio.NewWriter(conn)
	if err := d.negotiate(r, w); err != nil {
		return err
	}
	for {
		if more, err := d.answer(r, w); err != nil || !more {
			return err
		}
	}
}

// negotiate ends when the client has chosen the only export.
func (d *Disk) negotiate(r io.Reader, w *bufio.Writer) error {
	var client uint32
	if err := put(w, uint64(nbdMagic), uint64(optionMagic), uint16(fixedNewstyle)); err != nil {
		return err
	}
	if err := binary.Read(r, binary.BigEndian, &client); err != nil {
		return err
	}
	for {
		var option struct {
			Magic        uint64
			Option, Size uint32
		}
		if err := binary.Read(r, binary.BigEndian, &option); err != nil {
			return err
		}
		if option.Magic != optionMagic || option.Size > 4096 {
			return fmt.Errorf("option is %+v", option)
		}
		if _, err := io.CopyN(io.Discard, r, int64(option.Size)); err != nil {
			return err
		}
		reply := func(kind, size uint32) error { return put(w, uint64(optionReply), option.Option, kind, size) }
		switch option.Option {
		case optionGo:
			err := errors.Join(put(w, uint64(optionReply), option.Option, uint32(replyInfo), uint32(12), uint16(infoExport), d.size, uint16(exportFlags)), reply(replyAck, 0))
			return err
		case optionAbort:
			return errors.Join(reply(replyAck, 0), io.EOF)
		default:
			if err := reply(replyUnsup, 0); err != nil {
				return err
			}
		}
	}
}

// answer answers one request, and reports whether there may be another one.
func (d *Disk) answer(r io.Reader, w *bufio.Writer) (bool, error) {
	var request struct {
		Magic          uint32
		Flags, Command uint16
		Cookie, Offset uint64
		Size           uint32
	}
	if err := binary.Read(r, binary.BigEndian, &request); err != nil {
		return false, err
	}
	inside := request.Size <= maxRequest && request.Offset <= d.size && uint64(request.Size) <= d.size-request.Offset &&
		request.Offset%sectorSize == 0 && request.Size%sectorSize == 0
	if request.Magic != requestMagic || !inside {
		return false, fmt.Errorf("request is %+v, of a disk with %d bytes", request, d.size)
	}
	reply := func(code uint32, data []byte) error {
		if err := put(w, uint32(simpleReply), code, request.Cookie); err != nil || len(data) == 0 {
			return err
		}
		return put(w, data)
	}
	switch request.Command {
	case commandRead:
		data := make([]byte, request.Size)
		if err := d.read(data, request.Offset); err != nil {
			return false, err
		}
		return true, reply(0, data)
	case commandWrite:
		data := make([]byte, request.Size)
		if _, err := io.ReadFull(r, data); err != nil {
			return false, err // a write that did not arrive whole is none
		}
		d.write(data, request.Offset)
		if request.Flags&commandFUA != 0 {
			if err := d.flush(); err != nil {
				return false, err
			}
		}
		return true, reply(0, nil)
	case commandFlush:
		if err := d.flush(); err != nil {
			return false, err
		}
		return true, reply(0, nil)
	case commandDisc:
		return false, nil
	}
	return true, reply(invalidRequest, nil)
}

// put sends values in the network's order.
func put(w *bufio.Writer, values ...any) error {
	for _, v := range values {
		if err := binary.Write(w, binary.BigEndian, v); err != nil {
			return err
		}
	}
	return w.Flush()
}
