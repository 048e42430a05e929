// Package durable writes files that appear complete or not at all, and survive a crash once
// they have appeared.
package durable

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// File is an output without a name, or with a temporary name beside its destination. Commit
// gives it its name. Abort removes it.
type File struct {
	*os.File
	path      string
	dir       *os.File // of path
	temporary string   // "" if it has no name
	replace   bool
	done      bool
}

// New starts an output that will be path, with exactly the permissions perm (no umask). Without
// replace, an existing path is refused, now and again at Commit, with an error that matches
// os.ErrExist. With replace, Commit may replace only a regular file, or a symbolic link itself.
// Until Commit the data has no name, so nothing is left whenever the process ends. If the file
// system does not support files without a name, the name is .*.part; after a crash such a file
// may be deleted.
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
	// Replacing a device, or a link to one, would remove it for everybody.
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("replacing %s: it is %v, want a regular file", path, info.Mode())
	}
	dir, err := os.Open(filepath.Dir(path)) // opened now, so that the sync at the end cannot fail here
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

// temporaryName is the name of a file before its own. It is short, so that it is valid wherever
// the final name is.
func temporaryName(unique string) string { return "." + unique + ".part" }

// Replaces reports whether an output that will be path replaces other: both are one name, or
// one existing file.
func Replaces(path, other string) bool {
	if filepath.Base(path) == filepath.Base(other) {
		a, errA := os.Stat(filepath.Dir(path))
		b, errB := os.Stat(filepath.Dir(other))
		if errA == nil && errB == nil && os.SameFile(a, b) {
			return true
		}
	}
	a, errA := os.Lstat(path) // only the link itself would be replaced
	b, errB := os.Stat(other)
	return errA == nil && errB == nil && os.SameFile(a, b)
}

// Path returns the name that Commit gives to the output.
func (f *File) Path() string { return f.path }

// Commit makes the output durable and gives it its name. If Commit fails, the output is gone.
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
		os.Remove(f.path) // it may be gone after a crash, so remove it now
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
		// A link replaces nothing, so the file briefly needs a temporary name.
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

// WriteFile writes data to the file path. It replaces an existing file.
func WriteFile(path string, data []byte, perm os.FileMode) error {
	return write(path, data, perm, true)
}

// Create writes data to the new file path. If the file exists, the error matches os.ErrExist.
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

// NameDir renames a directory whose files are durable to to, which must not exist. Both names
// are in one directory.
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
