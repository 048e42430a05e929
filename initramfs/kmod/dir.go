package kmod

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// addTree adds the kernels of a directory: a root, a directory like /lib/modules,
// or the directory of one kernel in it. It follows symbolic links, because the
// owner named the tree.
func (s *source) addTree(dir string) error {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	if isKernel(dir) {
		return s.addKernel(dir, filepath.Base(dir))
	}
	if err := s.addImages(filepath.Join(dir, "boot")); err != nil {
		return err
	}
	var seen []os.FileInfo
	for _, base := range []string{"usr/lib/modules", "lib/modules", "."} {
		modules := filepath.Join(dir, base)
		entries, err := os.ReadDir(modules)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		for _, e := range entries {
			kernel := filepath.Join(modules, e.Name())
			info, err := os.Stat(kernel)
			switch {
			case errors.Is(err, fs.ErrNotExist) && base != ".":
				return danglingLink(kernel)
			case err != nil || !info.IsDir() || base == "." && !isKernel(kernel):
				continue
			case slices.ContainsFunc(seen, func(other os.FileInfo) bool { return os.SameFile(info, other) }):
				continue // /lib is a link to /usr/lib, say
			}
			seen = append(seen, info)
			if err := s.addKernel(kernel, e.Name()); err != nil {
				return err
			}
		}
	}
	return nil
}

func isKernel(dir string) bool {
	info, err := os.Stat(filepath.Join(dir, builtinList))
	return err == nil && info.Mode().IsRegular()
}

// addKernel adds one kernel's module directory, and the images in the boot
// directory of the same root.
func (s *source) addKernel(dir, version string) error {
	root := filepath.Dir(filepath.Dir(filepath.Dir(dir)))
	if filepath.Base(root) == "usr" {
		root = filepath.Dir(root)
	}
	if err := s.addImages(filepath.Join(root, "boot")); err != nil {
		return err
	}
	return s.addFiles(dir, "", version, nil)
}

// addImages adds the kernel images of a boot directory.
func (s *source) addImages(boot string) error {
	entries, err := os.ReadDir(boot)
	if err != nil {
		return nil // missing or unreadable: the image is optional
	}
	for _, e := range entries {
		file := filepath.Join(boot, e.Name())
		if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() {
			if err := s.add(file, "boot/"+e.Name(), func() ([]byte, error) { return os.ReadFile(file) }); err != nil {
				return err
			}
		}
	}
	return nil
}

// addFiles adds the files below dir, which is at the path below in the module
// directory. above lists the parent directories; a link to one of them is not
// followed.
func (s *source) addFiles(dir, below, version string, above []os.FileInfo) error {
	here, err := os.Stat(dir)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(above, func(other os.FileInfo) bool { return os.SameFile(here, other) }) {
		return nil
	}
	above = append(slices.Clip(above), here)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		file, name := filepath.Join(dir, e.Name()), path.Join(below, e.Name())
		info, err := os.Stat(file)
		switch {
		case name == "build" || name == "source":
			continue // links to headers and sources
		case err == nil && info.IsDir():
			err = s.addFiles(file, name, version, above)
		case errors.Is(err, fs.ErrNotExist):
			err = s.add(file, path.Join("lib/modules", version, name), func() ([]byte, error) { return nil, danglingLink(file) })
		case err == nil && info.Mode().IsRegular():
			err = s.add(file, path.Join("lib/modules", version, name), func() ([]byte, error) { return os.ReadFile(file) })
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// danglingLink is the error for a symbolic link to nothing.
func danglingLink(name string) error {
	target, err := os.Readlink(name)
	if err != nil {
		return err
	}
	return fmt.Errorf("%s is a symbolic link to %s, which is not there", name, strings.TrimSpace(target))
}
