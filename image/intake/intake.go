// Package intake reads directories, tars and the layers of OCI images into a file
// tree.
//
// Nothing is extracted: the data of files stays where it is, and is read when the
// filesystem is written. If a tree cannot keep a property of a file, the readers
// refuse the file by name.
package intake

import (
	"fmt"
	"path"

	"github.com/rootvouch/rootvouch/image/rootfs"
)

// Reader reads into a tree.
type Reader struct {
	Tree *rootfs.Tree

	// DropXattrs and DropPAX are patterns (path.Match) for the names of extended attributes and
	// PAX records to leave out.
	DropXattrs, DropPAX []string
	// Image chooses among the images of an OCI layout: see ReadOCI.
	Image string

	used   map[string]bool // :: pattern -> whether it matched
	mounts []Mount
}

// NotKept is the error for a part of a file that the tree cannot keep, but that a Reader can
// leave out.
type NotKept struct {
	Xattr, PAX string // its name; one of the two is set
	Reason     string
}

func (e *NotKept) Error() string {
	if e.Xattr != "" {
		return fmt.Sprintf("extended attribute %q cannot be kept: %s", e.Xattr, e.Reason)
	}
	return fmt.Sprintf("PAX record %q cannot be kept: %s", e.PAX, e.Reason)
}

// Check returns an error for a pattern that matched nothing, because such a pattern is a
// mistake. Call it when everything was read.
func (r *Reader) Check() error {
	for _, list := range []struct {
		what     string
		patterns []string
	}{{"extended attribute", r.DropXattrs}, {"PAX record", r.DropPAX}} {
		for _, pattern := range list.patterns {
			if !r.used[pattern] {
				return fmt.Errorf("pattern %q matches no %s", pattern, list.what)
			}
		}
	}
	return nil
}

// drops reports whether a pattern matches name.
func (r *Reader) drops(patterns []string, name string) bool {
	for _, pattern := range patterns {
		if ok, err := path.Match(pattern, name); err == nil && ok {
			if r.used == nil {
				r.used = map[string]bool{}
			}
			r.used[pattern] = true
			return true
		}
	}
	return false
}
