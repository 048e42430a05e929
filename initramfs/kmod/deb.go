package kmod

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"

	"github.com/rootvouch/rootvouch/internal/bounded"
)

// Parts of deb(5) and ar(5).
const (
	arMagic      = "!<arch>\n"
	arHeaderSize = 60 // bytes
	arFileMagic  = "`\n"
)

// addDeb adds the kernels of the Debian package at the start of r.
func (s *source) addDeb(r io.Reader, name string) error {
	if _, err := io.CopyN(io.Discard, r, int64(len(arMagic))); err != nil {
		return fmt.Errorf("reading Debian package: %w", err)
	}
	for {
		member, size, err := arHeader(r)
		if errors.Is(err, io.EOF) {
			return errors.New("reading Debian package: found no data.tar")
		}
		if err != nil {
			return fmt.Errorf("reading Debian package: %w", err)
		}
		data := io.LimitReader(r, size)
		suffix, isData := strings.CutPrefix(member, "data.tar")
		switch control, ok := strings.CutPrefix(member, "control.tar"); {
		case ok:
			err = s.addControl(data, control)
		case isData:
			err = s.addDebData(data, suffix, name)
		}
		if err != nil {
			return fmt.Errorf("reading %s: %w", member, err)
		}
		if isData {
			return nil
		}
		if _, err := io.Copy(io.Discard, data); err != nil {
			return fmt.Errorf("skipping %q: %w", member, err)
		}
		if _, err := io.CopyN(io.Discard, r, size%2); err != nil && size%2 != 0 {
			return fmt.Errorf("skipping %q: %w", member, err)
		}
	}
}

// arHeader reads the header of an archive's next member.
func arHeader(r io.Reader) (name string, size int64, err error) {
	header := make([]byte, arHeaderSize)
	if _, err := io.ReadFull(r, header); err != nil {
		return "", 0, err
	}
	n, err := strconv.ParseUint(strings.TrimRight(string(header[48:58]), " "), 10, 40)
	if err != nil || string(header[58:]) != arFileMagic {
		return "", 0, fmt.Errorf("header is %q, want one of an ar member", header)
	}
	return strings.TrimSuffix(strings.TrimRight(string(header[:16]), " "), "/"), int64(n), nil
}

// addDebData adds the package's files.
func (s *source) addDebData(r io.Reader, suffix, name string) error {
	data, done, err := decompress(r, suffix)
	if err != nil {
		return err
	}
	defer done()
	return s.addTar(tar.NewReader(data), name)
}

// addControl reads the package's description of itself (deb-control(5)).
func (s *source) addControl(r io.Reader, suffix string) error {
	data, done, err := decompress(r, suffix)
	if err != nil {
		return err
	}
	defer done()
	for archive := tar.NewReader(data); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if path.Clean("/"+h.Name) != "/control" {
			continue
		}
		text, err := bounded.Read(archive, maxInfo)
		if err != nil {
			return err
		}
		p := part{}
		for line := range strings.Lines(string(text)) {
			key, value, _ := strings.Cut(line, ":")
			switch key {
			case "Package":
				p.name = strings.TrimSpace(value)
			case "Depends":
				for dependency := range strings.SplitSeq(value, ",") {
					p.need(dependency)
				}
			}
		}
		s.parts = append(s.parts, p)
		return nil
	}
}
