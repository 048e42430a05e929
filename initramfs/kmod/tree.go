// Package kmod finds kernel modules, with everything they need, in a kernel package or an installed tree.
//
// It reads what the kernel's own build left in each module (.modinfo) and trusts
// no index that depmod made later, so a package that was never installed is as
// good as one that was.
package kmod

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// builtinList is in every kernel's module directory, and only there: it marks
// one. A directory that a removed kernel left behind has none.
const builtinList = "modules.builtin"

// Tree is the module directory of one kernel.
type Tree struct {
	version string
	kernel  string
	files   map[string]func() ([]byte, error) // :: path below the module directory -> its contents
	modules map[string][]string               // :: module name -> paths below the module directory
	builtin map[string]bool                   // :: names and aliases of what is built into the kernel
}

// source is where a Tree comes from: files of several kernels, perhaps.
type source struct {
	// kernels :: version -> path below its module directory -> contents
	kernels map[string]map[string]func() ([]byte, error)
	images  map[string]string // :: version -> where the kernel image is
}

// Open reads the module directory of a kernel. The path names one of: the root
// of an unpacked kernel package or of an installed system, with lib/modules or
// usr/lib/modules in it; a directory like /lib/modules; one kernel's directory in
// there; a Debian kernel package, which is read as it is. When there are several
// kernels, version says which one; otherwise it may be empty.
func Open(name, version string) (*Tree, error) {
	t, err := open(name, version)
	if err != nil {
		return nil, fmt.Errorf("opening kernel tree %s: %w", name, err)
	}
	return t, nil
}

func open(name, version string) (*Tree, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	var s source
	if info.IsDir() {
		s, err = openDir(name)
	} else {
		s, err = openDeb(name)
	}
	if err != nil {
		return nil, err
	}
	if version, err = s.choose(version); err != nil {
		return nil, err
	}
	t := &Tree{version: version, kernel: s.images[version], files: s.kernels[version], modules: map[string][]string{}}
	for _, file := range slices.Sorted(maps.Keys(t.files)) {
		if module, ok := moduleName(file); ok {
			t.modules[module] = append(t.modules[module], file)
		}
	}
	if t.builtin, err = t.readBuiltin(); err != nil {
		return nil, err
	}
	return t, nil
}

// choose picks the kernel of a source.
func (s source) choose(version string) (string, error) {
	found := slices.Sorted(maps.Keys(s.kernels))
	switch {
	case len(found) == 0:
		return "", errors.New("found no kernel: no directory in lib/modules or usr/lib/modules has a " + builtinList)
	case version == "" && len(found) > 1:
		return "", fmt.Errorf("found the kernels %q, want the version of one of them", found)
	case version == "":
		return found[0], nil
	case s.kernels[version] == nil:
		return "", fmt.Errorf("found the kernels %q, want %q", found, version)
	}
	return version, nil
}

// Version is the kernel's version, as uname -r prints it.
func (t *Tree) Version() string { return t.version }

// KernelPath says where the image of the same kernel is, or is empty when it is
// not in the tree. Inside a package it has the form "PACKAGE:boot/vmlinuz-…".
func (t *Tree) KernelPath() string { return t.kernel }

// read returns a file of the module directory, or nil when there is none.
func (t *Tree) read(name string) ([]byte, error) {
	open := t.files[name]
	if open == nil {
		return nil, nil
	}
	data, err := open()
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	return data, nil
}

// readBuiltin lists the names of modules.builtin and the aliases that
// modules.builtin.modinfo gives them: soft dependencies may name either.
func (t *Tree) readBuiltin() (map[string]bool, error) {
	list, err := t.read(builtinList)
	if err != nil {
		return nil, err
	}
	builtin := map[string]bool{}
	for line := range strings.Lines(string(list)) {
		if name, ok := moduleName(strings.TrimSpace(line)); ok {
			builtin[name] = true
		}
	}
	info, err := t.read(builtinList + ".modinfo")
	if err != nil {
		return nil, err
	}
	for record := range strings.SplitSeq(string(info), "\x00") {
		key, value, _ := strings.Cut(record, "=")
		if strings.HasSuffix(key, ".alias") {
			builtin[normal(value)] = true
		}
	}
	return builtin, nil
}

// openDir finds the kernels of a directory.
func openDir(dir string) (source, error) {
	s := source{kernels: map[string]map[string]func() ([]byte, error){}, images: map[string]string{}}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return source{}, err
	}
	if isKernel(dir) {
		return s, s.addDir(dir, filepath.Base(dir))
	}
	var seen []os.FileInfo
	for _, base := range []string{"usr/lib/modules", "lib/modules", "."} {
		modules := filepath.Join(dir, base)
		info, err := os.Stat(modules)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return source{}, err
		}
		if slices.ContainsFunc(seen, func(other os.FileInfo) bool { return os.SameFile(info, other) }) {
			continue // /lib is a link to /usr/lib
		}
		seen = append(seen, info)
		entries, err := os.ReadDir(modules)
		if err != nil {
			return source{}, err
		}
		for _, e := range entries {
			if kernel := filepath.Join(modules, e.Name()); isKernel(kernel) {
				if err := s.addDir(kernel, e.Name()); err != nil {
					return source{}, err
				}
			}
		}
	}
	return s, nil
}

func isKernel(dir string) bool {
	info, err := os.Stat(filepath.Join(dir, builtinList))
	return err == nil && info.Mode().IsRegular()
}

// addDir takes one kernel's module directory.
func (s source) addDir(dir, version string) error {
	if s.kernels[version] != nil {
		return fmt.Errorf("found kernel %q twice, want one directory for it", version)
	}
	files := map[string]func() ([]byte, error){}
	err := filepath.WalkDir(dir, func(name string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(dir, name)
		if err != nil {
			return err
		}
		if e.Type().IsRegular() && wanted(relative) {
			files[filepath.ToSlash(relative)] = func() ([]byte, error) { return os.ReadFile(name) }
		}
		return nil
	})
	if err != nil {
		return err
	}
	s.kernels[version] = files
	// The image lies beside the modules, or in the boot directory of the root
	// that lib/modules or usr/lib/modules belongs to.
	root := filepath.Dir(filepath.Dir(filepath.Dir(dir)))
	if filepath.Base(root) == "usr" {
		root = filepath.Dir(root)
	}
	for _, image := range []string{filepath.Join(dir, "vmlinuz"), filepath.Join(root, "boot", "vmlinuz-"+version)} {
		if info, err := os.Stat(image); err == nil && info.Mode().IsRegular() {
			s.images[version] = image
		}
	}
	return nil
}

// wanted picks the files of a module directory that Tree reads.
func wanted(name string) bool {
	if name == builtinList || name == builtinList+".modinfo" {
		return true
	}
	_, ok := moduleName(name)
	return ok
}

// moduleName gives the name of the module in a file such as
// "kernel/drivers/md/dm-crypt.ko.xz": "dm_crypt".
func moduleName(file string) (name string, ok bool) {
	base := path.Base(file)
	for _, c := range compressions {
		if name, ok = strings.CutSuffix(base, ".ko"+c.suffix); ok && name != "" {
			return normal(name), true
		}
	}
	return "", false
}

// normal is the form in which the kernel compares module names.
func normal(name string) string { return strings.ReplaceAll(name, "-", "_") }
