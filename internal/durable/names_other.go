//go:build !linux

package durable

import (
	"errors"
	"os"
)

// renameNew renames a file. It fails if the new name exists.
func renameNew(from, to string) error {
	if err := os.Link(from, to); err != nil {
		return err
	}
	return os.Remove(from)
}

func createUnnamed(string) *os.File { return nil }

func linkUnnamed(*os.File, string) error { return errors.ErrUnsupported }

func reopen(f *File, flag int) (*os.File, error) { return os.OpenFile(f.temporary, flag, 0) }
