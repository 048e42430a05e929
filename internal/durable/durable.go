// Package durable writes files that appear whole or not at all, and survive a
// crash once they have appeared.
package durable

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// File is an output that has no name yet, or a temporary one beside its
// destination. Commit gives it its name; Abort removes it.
type File struct {
	*os.File
	path      string
	dir       *os.File // of path
	temporary string   // "" if it has no name
	replace   bool
	done      bool
}

// New starts an output that will be path, with the permissions perm exactly
// (no umask). Unless replace is set, an existing path is refused, now and again
// at Commit, with an error that matches os.ErrExist; with it, only a regular
// file is replaced, or a symbolic link (not what it points to). Until Commit the
// data has no name, so that nothing is left of it wherever the process is ended.
// Where the file system has no such files its name is .*.part; after a crash it may
// be deleted.
func New(path string, perm os.FileMode, replace bool) (*File, error) {
	if path == "" {
		return nil, errors.New("the name of an output is empty")
	}
	switch _, err := os.Lstat(path); {
	case err == nil && !replace:
		return nil, &os.PathError{Op: "create", Path: path, Err: os.ErrExist}
	case err != nil && !errors.Is(err, os.ErrNotExist): // such as a name that is too long
		return nil, err
	}
	// A device, or a link to one, would no longer be there for anybody.
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("replacing %s: it is %v, want a regular file", path, info.Mode())
	}
	dir, err := os.Open(filepath.Dir(path)) // now: to sync it at the end must not fail for that
	if err != nil {
		return nil, fmt.Errorf("creating an output: %w", err)
	}
	f := &File{path: path, dir: dir, replace: replace}
	if f.File = createUnnamed(path); f.File == nil {
		// CreateTemp opens with O_EXCL and 0600.
		if f.File, err = os.CreateTemp(filepath.Dir(path), temporaryName("*")); err != nil {
			dir.Close()
			return nil, fmt.Errorf("creating an output beside %s: %w", path, err)
		}
		f.temporary = f.Name()
	}
	if err := f.Chmod(perm); err != nil {
		f.Abort()
		return nil, fmt.Errorf("setting permissions of %s: %w", path, err)
	}
	return f, nil
}

// temporaryName is the name that a file has before it has its own. It is short,
// so that it fits wherever that does.
func temporaryName(unique string) string { return "." + unique + ".part" }

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
	if err := f.name(); err != nil {
		return err
	}
	f.temporary = ""
	if err := f.dir.Sync(); err != nil {
		os.Remove(f.path) // it may be gone after a crash, so it is gone now
		return fmt.Errorf("syncing directory %s: %w", f.dir.Name(), err)
	}
	return nil
}

// name gives the output its name.
func (f *File) name() error {
	if f.temporary == "" && !f.replace {
		return linkUnnamed(f.File, f.path)
	}
	if f.temporary == "" {
		// A link replaces nothing, so there is a temporary name for a moment.
		temporary := filepath.Join(filepath.Dir(f.path), temporaryName(rand.Text()[:10]))
		if err := linkUnnamed(f.File, temporary); err != nil {
			return err
		}
		f.temporary = temporary
	}
	if f.replace {
		return os.Rename(f.temporary, f.path)
	}
	return renameNew(f.temporary, f.path)
}

// Reopen opens the output a second time.
func (f *File) Reopen(flag int) (*os.File, error) { return reopen(f, flag) }

// Abort removes the output. After Commit it does nothing, so it can be
// deferred.
func (f *File) Abort() {
	if f.done {
		return
	}
	f.done = true
	f.File.Close()
	f.dir.Close()
	if f.temporary != "" {
		os.Remove(f.temporary)
	}
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

// NameDir gives a directory whose files are durable its name, to, which must not be
// taken. Both are in one directory.
func NameDir(from, to string) error {
	parent, err := os.Open(filepath.Dir(to))
	if err != nil {
		return err
	}
	defer parent.Close()
	if err := renameNew(from, to); err != nil {
		return err
	}
	if err := parent.Sync(); err != nil {
		return fmt.Errorf("syncing directory %s: %w", parent.Name(), err)
	}
	return nil
}
