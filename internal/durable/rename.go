package durable

import (
	"fmt"
	"os"
	"path/filepath"
)

// Rename renames a durable file within its directory, durably. If the new name exists, the
// error matches os.ErrExist.
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
