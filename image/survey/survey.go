// Package survey reports what an owner should know about a file tree before a VM
// boots from it.
//
// A tree without notes may still not boot, and may still take orders from the host: the package
// knows only the usual faults.
package survey

import (
	"io"
	"path"
	"slices"

	"github.com/rootvouch/rootvouch/image/erofs"
	"github.com/rootvouch/rootvouch/image/rootfs"
	"github.com/rootvouch/rootvouch/pins"
)

// Note is a fact that an owner should know. Its name is one word for its kind, the same in
// every version.
type Note struct{ Name, Text string }

// initName is the name of notes that say why no VM boots from a root.
const initName = "init"

// look finds notes of one kind.
type look func(*root) ([]string, error)

// Notes inspects a tree. A VM makes its volumes with programs of the tree; filesystems names
// those that it needs.
func Notes(t *rootfs.Tree, filesystems ...string) ([]Note, error) {
	r := &root{t}
	var notes []Note
	for _, l := range []struct {
		name string
		look look
	}{
		{"hidden", hidden},
		{initName, initProgram},
		{"mode", rootMode},
		{"owner", oneOwner},
		{"resolver", resolver},
		{"machine-id", machineID},
		{"shared", shared},
		{"login", logins},
		{"fstab", fstab},
		{"crypttab", crypttab},
		{"units", mountUnits},
		{"orders", orders},
		{"credentials", credentials},
		{"mkfs", func(r *root) ([]string, error) { return makers(r, filesystems) }},
	} {
		texts, err := l.look(r)
		if err != nil {
			return nil, err
		}
		for _, text := range texts {
			notes = append(notes, Note{l.name, text})
		}
	}
	return notes, nil
}

// Init reports whether the tree has an init that a VM can execute, as its notes say.
func Init(notes []Note) pins.Init {
	for _, n := range notes {
		if n.Name == initName {
			return pins.InitBad
		}
	}
	return pins.InitOK
}

// one is the result of a look with one note.
func one(text string) ([]string, error) {
	if text == "" {
		return nil, nil
	}
	return []string{text}, nil
}

// root is a tree with helpers for looks.
type root struct{ *rootfs.Tree }

// has reports whether a file of that name exists. The last part may be a dangling link.
func (r *root) has(name string) bool {
	_, err := r.Lookup(name)
	return err == nil
}

// hasAny reports whether a file of one of the names exists.
func (r *root) hasAny(names ...string) bool { return slices.ContainsFunc(names, r.has) }

// maxText bounds how much of a text file is read, in bytes.
const maxText = 1 << 20

// text returns the beginning of a file. ok is false if the name does not lead to a regular
// file.
func (r *root) text(name string) (text string, ok bool, err error) {
	n, err := r.Follow(name)
	if err != nil || n.Type() != erofs.TypeRegular {
		return "", false, nil
	}
	data, err := head(n, maxText)
	return string(data), true, err
}

// head returns the first bytes of a file.
func head(n rootfs.Node, size int64) ([]byte, error) {
	f, err := n.Open()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, size))
}

// matching returns the names in a directory that match a pattern of path.Match.
func (r *root) matching(dir, pattern string) []string {
	d, err := r.Follow(dir)
	if err != nil {
		return nil
	}
	var found []string
	for _, n := range d.Children() {
		if ok, _ := path.Match(pattern, path.Base(n.Name())); ok {
			found = append(found, path.Join(dir, path.Base(n.Name())))
		}
	}
	return found
}

// isSystemd reports whether systemd is the root's init, or is installed as one.
func (r *root) isSystemd() bool {
	ok := r.hasAny("usr/lib/systemd/systemd", "lib/systemd/systemd")
	return ok
}
