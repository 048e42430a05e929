package durable

import (
	"fmt"
	"os"
	"path/filepath"
)

// Rename gives a file that is durable another name in its directory, durably. The error
// matches os.ErrExist when there is a file of that name already.
func Rename(from, to string) error {
	dir, err := os.Open(filepath.Dir(to))
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := renameNew(from, to); err != nil {
		return err
	}
	if err := dir.Sync(); err != nil {
		return fmt.Errorf("syncing directory %s: %w", dir.Name(), err)
	}
	return nil
}
