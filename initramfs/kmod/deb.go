package kmod

import (
	"archive/tar"
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"
	"strings"
)

// Parts of deb(5) and ar(5).
const (
	arMagic      = "!<arch>\n"
	arHeaderSize = 60 // bytes
	arFileMagic  = "`\n"
)

// maxPackagedFile bounds one file of a package that is kept in memory, in bytes.
const maxPackagedFile = 64 << 20

// openDeb reads the kernels of a Debian package into memory.
func openDeb(name string) (source, error) {
	f, err := os.Open(name)
	if err != nil {
		return source{}, err
	}
	defer f.Close()
	data, suffix, err := debData(bufio.NewReader(f))
	if err != nil {
		return source{}, fmt.Errorf("reading Debian package: %w", err)
	}
	r, done, err := decompress(data, suffix)
	if err != nil {
		return source{}, fmt.Errorf("reading data.tar%s: %w", suffix, err)
	}
	defer done()
	s, err := readPackage(tar.NewReader(r), name)
	if err != nil {
		return source{}, fmt.Errorf("reading data.tar%s: %w", suffix, err)
	}
	return s, nil
}

// debData finds the package's files: the member data.tar with its compression.
func debData(r io.Reader) (data io.Reader, suffix string, err error) {
	magic := make([]byte, len(arMagic))
	if _, err := io.ReadFull(r, magic); err != nil || string(magic) != arMagic {
		return nil, "", fmt.Errorf("magic is %q, want %q", magic, arMagic)
	}
	for first := true; ; first = false {
		header := make([]byte, arHeaderSize)
		if _, err := io.ReadFull(r, header); errors.Is(err, io.EOF) {
			return nil, "", errors.New("found no data.tar")
		} else if err != nil {
			return nil, "", err
		}
		name := strings.TrimSuffix(strings.TrimRight(string(header[:16]), " "), "/")
		size, err := strconv.ParseUint(strings.TrimRight(string(header[48:58]), " "), 10, 40)
		if err != nil || string(header[58:]) != arFileMagic {
			return nil, "", fmt.Errorf("header is %q, want one of an ar member", header)
		}
		if first && name != "debian-binary" {
			return nil, "", fmt.Errorf("first member is %q, want %q", name, "debian-binary")
		}
		if suffix, ok := strings.CutPrefix(name, "data.tar"); ok {
			return io.LimitReader(r, int64(size)), suffix, nil
		}
		if _, err := io.CopyN(io.Discard, r, int64(size+size%2)); err != nil {
			return nil, "", fmt.Errorf("skipping %q: %w", name, err)
		}
	}
}

// readPackage keeps the module directories of a package.
func readPackage(r *tar.Reader, deb string) (source, error) {
	s := source{kernels: map[string]map[string]func() ([]byte, error){}, images: map[string]string{}}
	found := map[string]map[string]func() ([]byte, error){} // as kernels, but with directories that are none
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return source{}, err
		}
		name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
		if version, ok := strings.CutPrefix(name, "boot/vmlinuz-"); ok && h.Typeflag == tar.TypeReg {
			s.images[version] = deb + ":" + name
		}
		rest, ok := strings.CutPrefix(strings.TrimPrefix(name, "usr/"), "lib/modules/")
		version, file, isFile := strings.Cut(rest, "/")
		if !ok || !isFile || h.Typeflag != tar.TypeReg || !wanted(file) {
			continue
		}
		if h.Size > maxPackagedFile {
			return source{}, fmt.Errorf("size of %s is %d bytes, want at most %d", name, h.Size, maxPackagedFile)
		}
		var data bytes.Buffer
		if _, err := io.Copy(&data, r); err != nil {
			return source{}, fmt.Errorf("reading %s: %w", name, err)
		}
		if found[version] == nil {
			found[version] = map[string]func() ([]byte, error){}
		}
		if found[version][file] != nil {
			return source{}, fmt.Errorf("found %s of kernel %q twice", file, version)
		}
		found[version][file] = func() ([]byte, error) { return data.Bytes(), nil }
	}
	for version, files := range found {
		if files[builtinList] != nil {
			s.kernels[version] = files
		}
	}
	return s, nil
}
