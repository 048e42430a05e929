// Package uki makes and reads unified kernel images: one EFI application with kernel,
// initramfs and command line.
//
// A launch digest covers the whole file, as the kernel. So a launcher needs one file and
// no command line. The program that runs first is systemd's stub. Build writes the same
// bytes as systemd's ukify for the same parts; docs/launchers.md lists the features of
// ukify that Build lacks.
package uki

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
)

// Parts are what a unified kernel image is made of.
type Parts struct {
	// Stub is systemd's linuxx64.efi.stub, unsigned.
	Stub []byte
	// OSRelease is an os-release file; nil: none.
	OSRelease []byte
	// CommandLine is the kernel's, as it will get it.
	CommandLine string
	// Kernel is a bzImage with an EFI stub, and Initramfs what it unpacks.
	Kernel, Initramfs []byte
}

// The sections of a unified kernel image that Build adds, and Open wants.
const (
	sectionOSRelease   = ".osrel"
	sectionCommandLine = ".cmdline"
	sectionVersion     = ".uname"
	sectionKernel      = ".linux"
	sectionInitramfs   = ".initrd"
	sectionSBAT        = ".sbat"
)

// MaxFile bounds a unified kernel image in bytes: its fields have 32 bits, and so have the
// places of its sections.
const MaxFile = 1 << 31

// Build returns the image. The same parts give the same bytes.
func Build(p Parts) ([]byte, error) {
	if len(p.Initramfs) == 0 || p.CommandLine == "" {
		return nil, errors.New("making a unified kernel image: initramfs and command line must not be empty")
	}
	f, err := readPE(p.Stub)
	if err != nil {
		return nil, fmt.Errorf("making a unified kernel image: reading the stub: %w", err)
	}
	if err := f.checkStub(); err != nil {
		return nil, fmt.Errorf("making a unified kernel image: the stub: %w", err)
	}
	version, err := kernelVersion(p.Kernel)
	if err != nil {
		return nil, fmt.Errorf("making a unified kernel image: %w", err)
	}
	kernel, err := readPE(p.Kernel)
	if err != nil {
		return nil, fmt.Errorf("making a unified kernel image: reading the kernel: %w", err)
	}
	if !kernel.nxCompat() {
		f.clearNXCompat()
	}
	if len(p.OSRelease) > 0 {
		f.add(sectionOSRelease, p.OSRelease)
	}
	f.add(sectionCommandLine, []byte(p.CommandLine))
	f.add(sectionVersion, []byte(version))
	f.add(sectionKernel, p.Kernel)
	f.add(sectionInitramfs, p.Initramfs)
	if err := f.replace(sectionSBAT, sbat(f, kernel)); err != nil {
		return nil, fmt.Errorf("making a unified kernel image: %w", err)
	}
	out, err := f.bytes()
	if err != nil {
		return nil, fmt.Errorf("making a unified kernel image: %w", err)
	}
	return out, nil
}

// sbat joins the revocation data of stub and kernel, and adds that of an image.
func sbat(stub, kernel *peFile) []byte {
	lines := []string{"sbat,1,SBAT Version,sbat,1,https://github.com/rhboot/shim/blob/main/SBAT.md"}
	for _, f := range []*peFile{stub, kernel} {
		if s, ok := f.section(sectionSBAT); ok {
			text := strings.Split(strings.TrimRight(string(bytes.TrimRight(s.data, "\x00")), "\n"), "\n")
			if strings.HasPrefix(text[0], "sbat,") {
				lines = append(lines, text[1:]...)
			}
		}
	}
	lines = append(lines, "uki,1,UKI,uki,1,https://uapi-group.org/specifications/specs/unified_kernel_image/")
	return []byte(strings.Join(lines, "\n") + "\n\x00")
}

// Section is a section of an image.
type Section struct {
	Name string
	Data []byte // a part of the file
}

// Image is a unified kernel image that was read. Its slices are parts of the file.
type Image struct {
	Sections          []Section // all, in their order
	CommandLine       string
	Version           string // of the kernel; may be empty
	Kernel, Initramfs []byte
}

// ErrNot is matched by the error of Open for a file that is no unified kernel image.
var ErrNot = errors.New("it is no unified kernel image")

// Is reports whether file is an EFI application with a section for a kernel.
func Is(file []byte) bool {
	f, err := readPE(file)
	if err != nil {
		return false
	}
	_, ok := f.section(sectionKernel)
	_, initramfs := f.section(sectionInitramfs)
	return ok && initramfs
}

// Open reads an image. It wants kernel, initramfs and command line, each once: a stub takes
// the first or the last of two.
func Open(file []byte) (Image, error) {
	f, err := readPE(file)
	if err != nil {
		return Image{}, fmt.Errorf("%w: %v", ErrNot, err)
	}
	var image Image
	seen := map[string][]byte{}
	for _, s := range f.sections {
		if _, twice := seen[s.name]; twice {
			return Image{}, fmt.Errorf("%w: there are two sections %q", ErrNot, s.name)
		}
		seen[s.name] = s.data
		image.Sections = append(image.Sections, Section{s.name, s.data})
	}
	for _, name := range []string{sectionKernel, sectionInitramfs, sectionCommandLine} {
		if len(seen[name]) == 0 {
			return Image{}, fmt.Errorf("%w: there is no section %q", ErrNot, name)
		}
	}
	image.Kernel, image.Initramfs = seen[sectionKernel], seen[sectionInitramfs]
	image.CommandLine = strings.TrimRight(string(seen[sectionCommandLine]), "\x00")
	image.Version = strings.TrimRight(string(seen[sectionVersion]), "\x00")
	return image, nil
}
