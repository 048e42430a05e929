//go:build !linux

package durable

import "os"

// renameNew gives a file a name that is not taken, and fails on one that is.
func renameNew(from, to string) error {
	if err := os.Link(from, to); err != nil {
		return err
	}
	return os.Remove(from)
}
