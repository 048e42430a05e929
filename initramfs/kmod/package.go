package kmod

import (
	"archive/tar"
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/rootvouch/rootvouch/internal/bounded"
	"github.com/rootvouch/rootvouch/internal/filekind"
)

// maxPackagedFile bounds one file of a package that is kept in memory, in bytes.
const maxPackagedFile = 64 << 20

// addPackage reads the kernels of a package of Debian, RPM, Arch Linux or Alpine
// into memory. It recognises the kind of package by its content.
func (s *source) addPackage(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	r := bufio.NewReaderSize(f, filekind.HeadSize)
	head, err := r.Peek(filekind.HeadSize)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	const want = "want a directory or a package (.deb, .rpm, .pkg.tar.zst, .apk)"
	switch kind := filekind.Of(head); kind {
	case filekind.Deb:
		return s.addDeb(r, name)
	case filekind.RPM:
		return s.addRPM(r, name)
	case filekind.Gzip, filekind.Zstd, filekind.Xz, filekind.Tar:
		return s.addPacked(r, name)
	case filekind.Unknown:
		if strings.HasPrefix(string(head), "ADB") {
			return errors.New("it is an Alpine package of version 3: unpack it with apk extract and name the directory")
		}
		return errors.New("it is no package: " + want)
	default:
		return fmt.Errorf("it is %v: %s", kind, want)
	}
}

// unpacked opens a compressed stream. It recognises the compression by the content.
func unpacked(r *bufio.Reader) (io.Reader, func(), error) {
	head, err := r.Peek(512)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, err
	}
	suffix, ok := map[filekind.Kind]string{filekind.Gzip: ".gz", filekind.Zstd: ".zst", filekind.Xz: ".xz"}[filekind.Of(head)]
	if kind := filekind.Of(head); !ok && kind != filekind.Tar && kind != filekind.Cpio {
		return nil, nil, fmt.Errorf("compression is %v, want xz, zstd, gzip or none", kind)
	}
	return decompress(r, suffix)
}

// addPacked adds a package that is a compressed tar: Arch Linux's, and Alpine's,
// which consists of several tars without end marks between them.
func (s *source) addPacked(r *bufio.Reader, name string) error {
	unpacked, done, err := unpacked(r)
	if err != nil {
		return err
	}
	defer done()
	return s.addTar(tar.NewReader(unpacked), name)
}

// addTar adds the files of a package, and reads the package's description of itself
// (PKGINFO of pacman and of Alpine).
func (s *source) addTar(r *tar.Reader, pack string) error {
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
		if name == ".PKGINFO" {
			if err := s.addInfo(r); err != nil {
				return err
			}
		}
		if h.Typeflag != tar.TypeReg || !interesting(name) {
			continue
		}
		if err := s.addData(r, h.Size, pack, name); err != nil {
			return err
		}
	}
}

// addData reads one file of a package into memory.
func (s *source) addData(r io.Reader, size int64, pack, name string) error {
	if size > maxPackagedFile {
		return fmt.Errorf("size of %s is %d bytes, want at most %d", name, size, maxPackagedFile)
	}
	data := make([]byte, size)
	if _, err := io.ReadFull(r, data); err != nil {
		return fmt.Errorf("reading %s: %w", name, err)
	}
	return s.add(pack+":"+name, name, func() ([]byte, error) { return data, nil })
}

// maxInfo bounds a package's description of itself, in bytes.
const maxInfo = 1 << 20

// addInfo reads a .PKGINFO: lines of "key = value".
func (s *source) addInfo(r io.Reader) error {
	data, err := bounded.Read(r, maxInfo)
	if err != nil {
		return fmt.Errorf("reading .PKGINFO: %w", err)
	}
	p := part{}
	for line := range strings.Lines(string(data)) {
		key, value, _ := strings.Cut(line, "=")
		switch value = strings.TrimSpace(value); strings.TrimSpace(key) {
		case "pkgname":
			p.name = value
		case "depend":
			p.need(value)
		}
	}
	s.parts = append(s.parts, p)
	return nil
}

// need notes a dependency if it is another part of the kernel. The names of such
// parts begin like the kernel's own name, and contain its version or their
// contents.
func (p *part) need(dependency string) {
	name := strings.TrimSpace(dependency)
	if end := strings.IndexAny(name, " <>=(:|"); end >= 0 {
		name = name[:end]
	}
	name = strings.TrimSuffix(name, "-uname-r") // of Fedora: a promise of the package of that name
	kernel := strings.HasPrefix(name, "linux-") && strings.ContainsAny(name, "0123456789") || strings.HasPrefix(name, "kernel-")
	if kernel && !slices.Contains(p.needs, name) {
		p.needs = append(p.needs, name)
	}
}
