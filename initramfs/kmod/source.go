package kmod

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
)

// opener reads a file.
type opener func() ([]byte, error)

// image is a kernel image.
type image struct {
	where string // its name in messages
	open  opener
}

// part is one package of a source.
type part struct {
	name  string
	needs []string // packages of the same kernel that it depends on
}

// source is the joint content of directories and packages. It may hold files of
// several kernels.
type source struct {
	kernels map[string]map[string]opener // :: version -> path below its module directory -> contents
	images  map[string]image             // :: version -> image beside the modules
	boot    map[string]image             // :: name in /boot without "vmlinuz-" -> image
	parts   []part
	taken   int // files that add took
}

// parted counts the known parts of kernels: files, and packages that need other
// packages. An empty package can be such a part.
func (s *source) parted() int {
	count := s.taken
	for _, p := range s.parts {
		count += len(p.needs)
	}
	return count
}

func newSource() *source {
	return &source{kernels: map[string]map[string]opener{}, images: map[string]image{}, boot: map[string]image{}}
}

// add adds a file by its path below a root. where is the file's name in messages.
// add ignores files that no kernel needs.
func (s *source) add(where, name string, open opener) error {
	if suffix, ok := strings.CutPrefix(name, "boot/vmlinuz-"); ok {
		s.boot[suffix] = image{where, open}
		s.taken++
		return nil
	}
	rest, ok := strings.CutPrefix(strings.TrimPrefix(name, "usr/"), "lib/modules/")
	version, file, isFile := strings.Cut(rest, "/")
	switch {
	case !ok || !isFile:
		return nil
	case file == "vmlinuz":
		s.images[version] = image{where, open}
		s.taken++
		return nil
	case !wanted(file):
		return nil
	}
	if s.kernels[version] == nil {
		s.kernels[version] = map[string]opener{}
	}
	if s.kernels[version][file] != nil {
		return fmt.Errorf("found %s of kernel %q twice, want one", file, version)
	}
	s.kernels[version][file] = open
	s.taken++
	return nil
}

// interesting reports whether add would add a file of that name.
func interesting(name string) bool {
	if strings.HasPrefix(name, "boot/vmlinuz-") {
		return true
	}
	rest, ok := strings.CutPrefix(strings.TrimPrefix(name, "usr/"), "lib/modules/")
	_, file, isFile := strings.Cut(rest, "/")
	return ok && isFile && (file == "vmlinuz" || wanted(file))
}

// image finds the image of a kernel. Alpine names the image by the kernel's flavour
// only.
func (s *source) image(version string) image {
	if i, ok := s.images[version]; ok {
		return i
	}
	if i, ok := s.boot[version]; ok {
		return i
	}
	for suffix, i := range s.boot {
		if strings.HasSuffix(version, "-"+suffix) {
			return i
		}
	}
	return image{}
}

// choose picks the kernel of a source.
func (s *source) choose(version string) (string, error) {
	var found []string
	for _, v := range slices.Sorted(maps.Keys(s.kernels)) {
		if s.kernels[v][builtinList] != nil {
			found = append(found, v)
		}
	}
	switch {
	case len(found) == 0:
		return "", s.hint(errors.New("found no kernel: no directory in lib/modules or usr/lib/modules has a " + builtinList))
	case version == "" && len(found) > 1:
		return "", fmt.Errorf("found the kernels %q, want the version of one of them", found)
	case version == "":
		return found[0], nil
	case !slices.Contains(found, version):
		return "", fmt.Errorf("found the kernels %q, want %q", found, version)
	}
	return version, nil
}

// hint adds to an error the packages on which the given packages depend and that
// were not given. Distributions split a kernel into several packages.
func (s *source) hint(err error) error {
	var lacking []string
	for _, p := range s.parts {
		for _, need := range p.needs {
			given := slices.ContainsFunc(s.parts, func(other part) bool { return other.name == need })
			if !given && !slices.Contains(lacking, need) {
				lacking = append(lacking, need)
			}
		}
	}
	if len(lacking) == 0 {
		return err
	}
	return fmt.Errorf("%w; the package has parts that it depends on, name them as well: %s", err, strings.Join(lacking, ", "))
}

// wanted picks the files of a module directory that Tree reads.
func wanted(name string) bool {
	if name == builtinList || name == builtinList+".modinfo" {
		return true
	}
	_, ok := moduleName(name)
	return ok
}

// rank orders several files of one module; the lowest rank is used. The order is
// the default of depmod.d(5) and of distributions: updates, such as those of DKMS,
// come before the kernel's own modules, and these before modules made for another
// kernel.
func rank(file string) int {
	dir, _, _ := strings.Cut(path.Clean(file), "/")
	switch dir {
	case "updates":
		return 0
	case "extra", "ubuntu":
		return 1
	case "weak-updates":
		return 3
	}
	return 2
}
