// Package durable writes files that appear whole or not at all, and survive a
// crash once they have appeared.
package durable

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// File is an output under a temporary name beside its destination. Commit
// gives it its name; Abort removes it.
type File struct {
	*os.File
	path    string
	replace bool
	done    bool
}

// New starts an output that will be path, with the permissions perm exactly
// (no umask). Unless replace is set, an existing path is refused, now and again
// at Commit, with an error that matches os.ErrExist; with it, only a regular
// file is replaced, or a symbolic link (not what it points to). Until Commit the
// data has no name of its own that anyone would mistake for the output; after a
// crash a file .NAME.*.part is left and may be deleted.
func New(path string, perm os.FileMode, replace bool) (*File, error) {
	if path == "" {
		return nil, errors.New("the name of an output is empty")
	}
	if _, err := os.Lstat(path); err == nil && !replace {
		return nil, &os.PathError{Op: "create", Path: path, Err: os.ErrExist}
	}
	// A device, or a link to one, would no longer be there for anybody.
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("replacing %s: it is %v, want a regular file", path, info.Mode())
	}
	// CreateTemp opens with O_EXCL and 0600.
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*.part")
	if err != nil {
		return nil, fmt.Errorf("creating an output beside %s: %w", path, err)
	}
	if err := f.Chmod(perm); err != nil {
		f.Close()
		os.Remove(f.Name())
		return nil, fmt.Errorf("setting permissions of %s: %w", path, err)
	}
	return &File{File: f, path: path, replace: replace}, nil
}

// Replaces reports whether an output that will be path takes the place of other:
// both are one name, or one existing file.
func Replaces(path, other string) bool {
	if filepath.Base(path) == filepath.Base(other) {
		a, errA := os.Stat(filepath.Dir(path))
		b, errB := os.Stat(filepath.Dir(other))
		if errA == nil && errB == nil && os.SameFile(a, b) {
			return true
		}
	}
	a, errA := os.Lstat(path) // a link alone would be replaced
	b, errB := os.Stat(other)
	return errA == nil && errB == nil && os.SameFile(a, b)
}

// Path is the name that the output gets by Commit.
func (f *File) Path() string { return f.path }

// Commit makes the output durable and gives it its name. After an error the
// output is gone.
func (f *File) Commit() error {
	if f.done {
		panic("durable: internal error: Commit after Commit or Abort")
	}
	defer f.Abort()
	if err := f.Sync(); err != nil {
		return fmt.Errorf("syncing %s: %w", f.path, err)
	}
	temporary := f.Name()
	if err := f.File.Close(); err != nil {
		return fmt.Errorf("closing %s: %w", f.path, err)
	}
	if f.replace {
		if err := os.Rename(temporary, f.path); err != nil {
			return err
		}
	} else if err := renameNew(temporary, f.path); err != nil {
		return err
	}
	f.done = true
	return syncDir(filepath.Dir(f.path))
}

// Abort removes the output. After Commit it does nothing, so it can be
// deferred.
func (f *File) Abort() {
	if f.done {
		return
	}
	f.done = true
	f.File.Close()
	os.Remove(f.Name())
}

// WriteFile makes path a file with this data, replacing what was there.
func WriteFile(path string, data []byte, perm os.FileMode) error {
	return write(path, data, perm, true)
}

// Create makes path a new file with this data. The error matches os.ErrExist
// when there is one already.
func Create(path string, data []byte, perm os.FileMode) error {
	return write(path, data, perm, false)
}

func write(path string, data []byte, perm os.FileMode, replace bool) error {
	f, err := New(path, perm, replace)
	if err != nil {
		return err
	}
	defer f.Abort()
	if _, err := f.Write(data); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return f.Commit()
}

// syncDir makes a new name in dir durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("opening directory to sync: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("syncing directory %s: %w", dir, err)
	}
	return nil
}
