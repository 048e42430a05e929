// Package kmod finds kernel modules, with everything they need, in a kernel package
// or an installed tree.
//
// It reads the section .modinfo that the kernel's build put into each module. It does
// not use the index that depmod makes at installation, so a package need not be
// installed.
package kmod

import (
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
)

// builtinList is a file in every kernel's module directory and nowhere else, so it
// marks such a directory. A directory that a removed kernel left behind lacks it.
const builtinList = "modules.builtin"

// Tree is the module directory of one kernel.
type Tree struct {
	version string
	image   image
	files   map[string]opener   // :: path below the module directory -> its contents
	modules map[string][]string // :: module name -> paths below the module directory, by rank
	builtin map[string]bool     // :: names and aliases of built-in modules
	from    *source
}

// Open reads the module directory of a kernel from the given names together,
// because distributions split a kernel into several packages. Each name is a root
// of an unpacked kernel package or of an installed system, with lib/modules or
// usr/lib/modules in it; a directory like /lib/modules; the directory of one kernel
// in it; or a package of Debian (.deb), Fedora or SUSE (.rpm), Arch Linux
// (.pkg.tar.zst) or Alpine (.apk), which need not be unpacked. If there are several
// kernels, version selects one. Otherwise version may be empty.
func Open(names []string, version string) (*Tree, error) {
	t, err := open(names, version)
	if err != nil {
		return nil, fmt.Errorf("opening kernel tree %s: %w", strings.Join(names, ", "), err)
	}
	return t, nil
}

func open(names []string, version string) (*Tree, error) {
	s := newSource()
	for _, name := range names {
		before := s.parted()
		info, err := os.Stat(name)
		switch {
		case err != nil:
		case info.IsDir():
			err = s.addTree(name)
		default:
			err = s.addPackage(name)
		}
		if err == nil && len(names) > 1 && s.parted() == before {
			err = fmt.Errorf("found no kernel, and no part of one, in %s", name)
		}
		if err != nil {
			return nil, err
		}
	}
	version, err := s.choose(version)
	if err != nil {
		return nil, err
	}
	t := &Tree{version: version, image: s.image(version), files: s.kernels[version], modules: map[string][]string{}, from: s}
	for _, file := range slices.Sorted(maps.Keys(t.files)) {
		if module, ok := moduleName(file); ok {
			t.modules[module] = append(t.modules[module], file)
		}
	}
	for _, files := range t.modules {
		slices.SortStableFunc(files, func(a, b string) int { return rank(a) - rank(b) })
	}
	if t.builtin, err = t.readBuiltin(); err != nil {
		return nil, err
	}
	return t, nil
}

// Version returns the kernel's version, as uname -r prints it.
func (t *Tree) Version() string { return t.version }

// KernelPath returns the path of the same kernel's image, or "" if the tree has no
// image. For an image inside a package the form is "PACKAGE:boot/vmlinuz-…".
func (t *Tree) KernelPath() string { return t.image.where }

// Kernel returns the image of the same kernel.
func (t *Tree) Kernel() ([]byte, error) {
	if t.image.open == nil {
		return nil, t.from.hint(fmt.Errorf("found no image of kernel %s, neither boot/vmlinuz-%s nor usr/lib/modules/%s/vmlinuz", t.version, t.version, t.version))
	}
	data, err := t.image.open()
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", t.image.where, err)
	}
	return data, nil
}

// read returns a file of the module directory, or nil if there is none.
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

// normal returns a module name in the form that the kernel compares.
func normal(name string) string { return strings.ReplaceAll(name, "-", "_") }
