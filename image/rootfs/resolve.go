package rootfs

import (
	"fmt"
	"io/fs"
	"path"
	"strings"
)

// maxLinks is how many symbolic links one name may lead through, as in Linux
// (MAXSYMLINKS, include/linux/namei.h).
const maxLinks = 40

// step is a directory in the path of a file, with its name in the directory above.
type step struct {
	dir  *inode
	name string
}

// wayTo returns the path of a name in the last directory of a way.
func wayTo(way []step, last string) string {
	name := ""
	for _, s := range way {
		name = path.Join(name, s.name)
	}
	return path.Join(name, last)
}

// follow finds the inode at parts, through symbolic links as in a chroot: an absolute target
// starts at the tree's root, and ".." at the root stays there. So no name leads out of the
// tree. With create, missing directories are made with the properties of New's root.
func (t *Tree) follow(parts []string, create bool) (*inode, error) {
	var room [16]step
	way, err := t.way(room[:0], parts, create)
	if err != nil {
		return nil, err
	}
	return way[len(way)-1].dir, nil
}

// way is follow, but returns all steps from the root on.
func (t *Tree) way(way []step, parts []string, create bool) ([]step, error) {
	way = append(way, step{t.root, ""})
	links := 0
	for todo := parts; len(todo) > 0; {
		part := todo[0]
		todo = todo[1:]
		here := way[len(way)-1]
		if !here.dir.isDir() {
			return nil, fmt.Errorf("%q is not a directory", wayTo(way, ""))
		}
		switch part {
		case "", ".":
			continue
		case "..":
			way = way[:max(1, len(way)-1)]
			continue
		}
		next := here.dir.entries()[part]
		if next == nil && create {
			next = newDirectory()
			here.dir.entries()[strings.Clone(part)] = next
		}
		if next == nil {
			return nil, fmt.Errorf("%q: %w", wayTo(way, part), fs.ErrNotExist)
		}
		target, ok := next.body.(symlink)
		if !ok {
			way = append(way, step{next, part})
			continue
		}
		if links++; links > maxLinks {
			return nil, fmt.Errorf("%q leads through more than %d symbolic links", path.Join(parts...), maxLinks)
		}
		if strings.HasPrefix(string(target), "/") {
			way = way[:1]
		}
		todo = append(strings.Split(string(target), "/"), todo...)
	}
	return way, nil
}

// directory finds the directory at parts.
func (t *Tree) directory(parts []string, create bool) (*inode, error) {
	var room [16]step
	way, err := t.way(room[:0], parts, create)
	if err != nil {
		return nil, err
	}
	dir := way[len(way)-1].dir
	if !dir.isDir() {
		return nil, fmt.Errorf("%q is not a directory", wayTo(way, ""))
	}
	return dir, nil
}

// lookup finds the inode of a name. Symbolic links on the way to it are followed.
func (t *Tree) lookup(name string) (*inode, error) {
	parts, err := split(name)
	if err != nil {
		return nil, err
	}
	if len(parts) == 0 {
		return t.root, nil
	}
	dir, err := t.directory(parts[:len(parts)-1], false)
	if err != nil {
		return nil, err
	}
	n := dir.entries()[parts[len(parts)-1]]
	if n == nil {
		return nil, fmt.Errorf("%q: %w", name, fs.ErrNotExist)
	}
	return n, nil
}
