package initramfs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"

	"github.com/rootvouch/rootvouch/boot/bootconfig"
	"github.com/rootvouch/rootvouch/initramfs/cpio"
)

// maxArchive bounds a decompressed base, in bytes.
const maxArchive = 1 << 30

// parts are the pieces of an initramfs of ours.
type parts struct {
	frame  []byte // the compressed archive of the base
	base   []byte // frame and its padding
	config []byte // the archive with boot.json; empty if there is none
}

// Contents is everything in an initramfs of ours.
type Contents struct {
	Base        []cpio.Entry
	BaseSize    int // bytes that the base takes, compressed and padded
	BaseArchive int // bytes of the base's archive, decompressed
	// BootConfig is the text of boot.json, or nil if there is none.
	BootConfig []byte
	ConfigSize int // bytes that the archive with boot.json takes
}

// File is one entry of an initramfs, without its contents.
type File struct {
	Path string // in the guest
	Mode uint32 // type and permissions, as in stat(2)
	Size int    // bytes
}

// Files lists everything, boot.json last.
func (c Contents) Files() []File {
	var files []File
	for _, e := range c.Base {
		files = append(files, File{Path: "/" + e.Name, Mode: e.Mode, Size: len(e.Data)})
	}
	if c.BootConfig != nil {
		files = append(files, File{Path: bootconfig.Path, Mode: configMode, Size: len(c.BootConfig)})
	}
	return files
}

// Read takes an initramfs apart. It accepts only the files that Build and Configure
// make. The kernel's parser is more lenient, and could read other files
// differently. Read does not check the contents of boot.json; see
// bootconfig.Decode.
func Read(data []byte) (Contents, error) {
	c, err := read(data)
	if err != nil {
		return Contents{}, fmt.Errorf("reading initramfs: %w", err)
	}
	return c, nil
}

func read(data []byte) (Contents, error) {
	p, err := split(data)
	if err != nil {
		return Contents{}, err
	}
	archive, entries, err := p.readBase()
	if err != nil {
		return Contents{}, err
	}
	c := Contents{Base: entries, BaseSize: len(p.base), BaseArchive: len(archive), ConfigSize: len(p.config)}
	if c.BootConfig, err = p.readConfig(); err != nil {
		return Contents{}, err
	}
	return c, nil
}

// split finds the parts of an initramfs, without decompressing it.
func split(data []byte) (parts, error) {
	n, err := frameSize(data)
	if err != nil {
		return parts{}, err
	}
	end := min(n+(-n&(alignment-1)), len(data))
	if len(bytes.Trim(data[n:end], "\x00")) != 0 {
		return parts{}, fmt.Errorf("padding after the base is %x, want zeros", data[n:end])
	}
	if end%alignment != 0 {
		return parts{}, fmt.Errorf("padding after the base ends at offset %d, want a multiple of %d", end, alignment)
	}
	return parts{frame: data[:n], base: data[:end], config: data[end:]}, nil
}

// readConfig returns boot.json, or nil if there is none.
func (p parts) readConfig() ([]byte, error) {
	if len(p.config) == 0 {
		return nil, nil
	}
	entries, err := readArchive(p.config)
	if err != nil {
		return nil, fmt.Errorf("reading what follows the base: %w", err)
	}
	if len(entries) != 1 || "/"+entries[0].Name != bootconfig.Path || entries[0].Mode != configMode {
		return nil, fmt.Errorf("got %d entries after the base, want the file %s alone", len(entries), bootconfig.Path)
	}
	return entries[0].Data, nil
}

// readBase decompresses the base and checks that the guest can start from it.
func (p parts) readBase() (archive []byte, entries []cpio.Entry, err error) {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxArchive))
	if err != nil {
		return nil, nil, err
	}
	defer d.Close()
	if archive, err = d.DecodeAll(p.frame, nil); err != nil {
		return nil, nil, fmt.Errorf("decompressing base: %w", err)
	}
	if entries, err = readArchive(archive); err != nil {
		return nil, nil, fmt.Errorf("reading base: %w", err)
	}
	has := map[string]bool{}
	for _, e := range entries {
		has["/"+e.Name] = e.Mode&cpio.TypeMask == cpio.TypeRegular
	}
	for _, name := range append(GuestBinaries(), bootconfig.ModulesPath) {
		if !has[name] {
			return nil, nil, fmt.Errorf("base has no file %s", name)
		}
	}
	if has[bootconfig.Path] {
		return nil, nil, fmt.Errorf("base has a %s of its own", bootconfig.Path)
	}
	return archive, entries, nil
}

// readArchive reads one archive that fills data exactly.
func readArchive(data []byte) ([]cpio.Entry, error) {
	r := cpio.NewReader(bytes.NewReader(data))
	var entries []cpio.Entry
	for {
		e, err := r.Next()
		if errors.Is(err, io.EOF) {
			if rest := int64(len(data)) - r.Offset(); rest != 0 {
				return nil, fmt.Errorf("got %d bytes after the archive, want none", rest)
			}
			return entries, nil
		}
		if err != nil {
			return nil, err
		}
		entries = append(entries, e)
	}
}

// Parts of a zstd frame (RFC 8878, section 3.1.1).
const (
	frameMagic      = 0xFD2FB528
	frameChecksum   = 4 // bytes
	blockHeaderSize = 3 // bytes
	maxBlockSize    = 128 << 10
)

// frameSize walks the blocks of the zstd frame at the start of data and returns the
// frame's size in bytes.
func frameSize(data []byte) (int, error) {
	if len(data) < 4 || binary.LittleEndian.Uint32(data) != frameMagic {
		return 0, errors.New("file does not begin with a zstd frame; want an initramfs that rootvouch made")
	}
	var h zstd.Header
	if err := h.Decode(data); err != nil {
		return 0, fmt.Errorf("reading zstd frame header: %w", err)
	}
	if h.Skippable || h.DictionaryID != 0 || h.WindowSize > windowSize {
		return 0, fmt.Errorf("reading zstd frame header: window is %d bytes, dictionary %d, want at most %d and none",
			h.WindowSize, h.DictionaryID, windowSize)
	}
	at := h.HeaderSize
	for last := false; !last; {
		if len(data)-at < blockHeaderSize {
			return 0, fmt.Errorf("reading zstd block at offset %d: %w", at, io.ErrUnexpectedEOF)
		}
		header := uint32(data[at]) | uint32(data[at+1])<<8 | uint32(data[at+2])<<16
		size := int(header >> 3)
		last = header&1 != 0
		switch header >> 1 & 3 {
		case 1: // RLE: one byte, repeated
			size = 1
		case 3:
			return 0, fmt.Errorf("reading zstd block at offset %d: type is reserved", at)
		}
		if size > maxBlockSize {
			return 0, fmt.Errorf("reading zstd block at offset %d: size is %d, want at most %d", at, size, maxBlockSize)
		}
		at += blockHeaderSize + size
	}
	if h.HasCheckSum {
		at += frameChecksum
	}
	if at > len(data) {
		return 0, fmt.Errorf("reading zstd frame: %w", io.ErrUnexpectedEOF)
	}
	return at, nil
}

// IsBase reports whether data is a base as Build makes it, without a boot.json. It
// does not decompress files that do not begin as ours do.
func IsBase(data []byte) bool {
	p, err := split(data)
	if err != nil || len(p.config) > 0 {
		return false
	}
	_, _, err = p.readBase()
	return err == nil
}
