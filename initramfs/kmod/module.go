package kmod

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"fmt"
	"io"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/rootvouch/rootvouch/internal/bounded"
)

// maxModule bounds a decompressed module, in bytes. The largest of Debian's
// kernel has 6 MiB.
const maxModule = 64 << 20

// Module is one module, decompressed; the signature at its end is kept.
type Module struct {
	Name string // as the kernel prints it, with underscores
	Path string // its path below the kernel's module directory
	Data []byte // the ELF file

	depends   []string // modules that must be loaded first
	pre, post []string // soft dependencies: names or aliases, wanted before and after
}

// compressions are the compressions of modules (CONFIG_MODULE_COMPRESS) and of
// deb(5), by the suffix of the file.
var compressions = [...]struct {
	suffix string
	open   func(io.Reader) (r io.Reader, done func(), err error)
}{
	{"", func(r io.Reader) (io.Reader, func(), error) { return r, func() {}, nil }},
	{".xz", func(r io.Reader) (io.Reader, func(), error) {
		x, err := xz.NewReader(r)
		return x, func() {}, err
	}},
	{".zst", func(r io.Reader) (io.Reader, func(), error) {
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, nil, err
		}
		return z, z.Close, nil
	}},
	{".gz", func(r io.Reader) (io.Reader, func(), error) {
		g, err := gzip.NewReader(r)
		return g, func() {}, err
	}},
}

// decompress opens a stream by the suffix of its file. The caller calls done to
// free it.
func decompress(r io.Reader, suffix string) (out io.Reader, done func(), err error) {
	for _, c := range compressions {
		if c.suffix == suffix {
			return c.open(r)
		}
	}
	return nil, nil, fmt.Errorf("compression is %q, want .xz, .zst, .gz or none", suffix)
}

// load reads the module in a file.
func (t *Tree) load(name, file string) (*Module, error) {
	packed, err := t.read(file)
	if err != nil {
		return nil, err
	}
	_, suffix, _ := strings.Cut(file[strings.LastIndex(file, ".ko"):], ".ko")
	r, done, err := decompress(bytes.NewReader(packed), suffix)
	if err != nil {
		return nil, fmt.Errorf("decompressing %s: %w", file, err)
	}
	defer done()
	data, err := bounded.Read(r, maxModule)
	if err != nil {
		return nil, fmt.Errorf("decompressing %s: %w", file, err)
	}
	m := &Module{Name: name, Path: file, Data: data}
	if err := m.parse(t.version); err != nil {
		return nil, fmt.Errorf("reading %s: %w", file, err)
	}
	return m, nil
}

// parse reads the module's .modinfo section: "key=value" strings, each ended by
// NUL (Linux, include/linux/moduleparam.h, __MODULE_INFO).
func (m *Module) parse(version string) error {
	f, err := elf.NewFile(bytes.NewReader(m.Data))
	if err != nil {
		return err
	}
	if f.Type != elf.ET_REL || f.Machine != elf.EM_X86_64 {
		return fmt.Errorf("ELF file is %v for %v, want %v for %v", f.Type, f.Machine, elf.ET_REL, elf.EM_X86_64)
	}
	section := f.Section(".modinfo")
	if section == nil {
		return fmt.Errorf("found no section .modinfo")
	}
	info, err := section.Data()
	if err != nil {
		return fmt.Errorf("reading .modinfo: %w", err)
	}
	name, vermagic := "", ""
	for record := range strings.SplitSeq(string(info), "\x00") {
		key, value, _ := strings.Cut(record, "=")
		switch key {
		case "name":
			name = value
		case "vermagic":
			vermagic, _, _ = strings.Cut(value, " ")
		case "depends":
			for d := range strings.SplitSeq(value, ",") {
				if d != "" {
					m.depends = append(m.depends, normal(d))
				}
			}
		case "softdep":
			if err := m.parseSoft(value); err != nil {
				return err
			}
		}
	}
	if name != m.Name {
		return fmt.Errorf("name is %q, want %q", name, m.Name)
	}
	if vermagic != version {
		return fmt.Errorf("vermagic is for kernel %q, want %q", vermagic, version)
	}
	return nil
}

// parseSoft reads one softdep record: "pre: a b post: c" (modprobe.d(5)).
func (m *Module) parseSoft(value string) error {
	var list *[]string
	for word := range strings.FieldsSeq(value) {
		switch {
		case word == "pre:":
			list = &m.pre
		case word == "post:":
			list = &m.post
		case list == nil:
			return fmt.Errorf("softdep is %q, want pre: or post: first", value)
		default:
			*list = append(*list, normal(word))
		}
	}
	return nil
}
