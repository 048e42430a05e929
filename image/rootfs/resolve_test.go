package rootfs

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/rootvouch/rootvouch/image/erofs"
)

// treeOf makes a tree: "a/" is a directory, "a -> b" a symbolic link, anything
// else an empty file.
func treeOf(t *testing.T, entries ...string) *Tree {
	t.Helper()
	tree := New()
	for _, e := range entries {
		if err := addTo(tree, e); err != nil {
			t.Fatal(err)
		}
	}
	return tree
}

func addTo(tree *Tree, e string) error {
	name, target, link := strings.Cut(e, " -> ")
	switch {
	case link:
		return tree.Add(name, File{Mode: erofs.TypeSymlink | 0o777, Target: target})
	case strings.HasSuffix(e, "/"):
		return tree.Add(name, File{Mode: erofs.TypeDirectory | 0o755})
	}
	return tree.Add(name, File{Mode: erofs.TypeRegular | 0o644})
}

func namesOf(tree *Tree) string {
	all := map[string]bool{}
	tree.Root().Walk(func(n Node) bool {
		if !n.IsDir() {
			all[n.Name()] = true
		}
		return true
	})
	return strings.Join(slices.Sorted(maps.Keys(all)), " ")
}

// TestThroughLinks: links on the way to a name lead inside the tree, and nowhere
// else.
func TestThroughLinks(t *testing.T) {
	for _, c := range []struct {
		name   string
		before []string
		add    string
		want   string // names of files, or "error: " and a part of the error
	}{
		{"merged /usr", []string{"usr/lib/a.so", "lib -> usr/lib"}, "lib/b.so", "lib usr/lib/a.so usr/lib/b.so"},
		{"absolute target", []string{"usr/lib/a.so", "lib -> /usr/lib"}, "lib/b.so", "lib usr/lib/a.so usr/lib/b.so"},
		{"target is absent", []string{"lib -> usr/lib"}, "lib/b.so", "lib usr/lib/b.so"},
		{"up and out", []string{"a/b/out -> ../../../../etc"}, "a/b/out/passwd", "a/b/out etc/passwd"},
		{"absolute, up and out", []string{"out -> /../../etc"}, "out/passwd", "etc/passwd out"},
		{"link to the root", []string{"here -> /"}, "here/here/f", "f here"},
		{"link by a link", []string{"x -> y/z", "y -> w", "w/z/"}, "x/f", "w/z/f x y"},
		{"a link in place of a link", []string{"a -> b", "b/f"}, "a -> c", "a b/f"},
		{"a directory in place of a link", []string{"a -> b", "b/f"}, "a/", "b/f"},
		{"below a file by a link", []string{"f", "a -> f"}, "a/g", `error: "f" is not a directory`},
		{"endless", []string{"a -> b", "b -> a"}, "a/f", "error: more than 40 symbolic links"},
		{"itself", []string{"a -> a/a"}, "a/f", "error: more than 40 symbolic links"},
	} {
		t.Run(c.name, func(t *testing.T) {
			tree := treeOf(t, c.before...)
			err := addTo(tree, c.add)
			got := namesOf(tree)
			if want, refused := strings.CutPrefix(c.want, "error: "); refused {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("got %s and error %v, want one with %q", got, err, want)
				}
			} else if err != nil || got != c.want {
				t.Errorf("got %s, error %v, want %s", got, err, c.want)
			}
		})
	}
}

// TestRemoveThroughLinks: what a link names is removed where it lies; the link
// itself by its own name.
func TestRemoveThroughLinks(t *testing.T) {
	before := []string{"usr/lib/a", "usr/lib/b", "lib -> usr/lib"}
	for _, c := range []struct {
		name string
		do   func(*Tree) error
		want string
	}{
		{"a file", func(tree *Tree) error { return tree.Remove("lib/a") }, "lib usr/lib/b"},
		{"the link", func(tree *Tree) error { return tree.Remove("lib") }, "usr/lib/a usr/lib/b"},
		{"all in it", func(tree *Tree) error { return tree.Clear("lib") }, "lib"},
		{"absent", func(tree *Tree) error { return tree.Remove("lib/none/none") }, "lib usr/lib/a usr/lib/b"},
		{"hard link", func(tree *Tree) error { return tree.Link("lib/c", "lib/a") }, "lib usr/lib/a usr/lib/b usr/lib/c"},
	} {
		t.Run(c.name, func(t *testing.T) {
			tree := treeOf(t, before...)
			if err := c.do(tree); err != nil {
				t.Fatal(err)
			}
			if got := namesOf(tree); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

func TestFollow(t *testing.T) {
	tree := treeOf(t, "usr/lib/systemd/systemd", "lib -> usr/lib", "usr/sbin/init -> ../../lib/systemd/systemd", "sbin -> usr/sbin",
		"gone -> nowhere", "loop -> loop")
	n, err := tree.Follow("/sbin/init")
	if err != nil || n.Type() != erofs.TypeRegular {
		t.Errorf("got %v, error %v", n, err)
	}
	if n, err := tree.Lookup("/sbin/init"); err != nil || n.Stat().Target != "../../lib/systemd/systemd" {
		t.Errorf("got %v, error %v", n, err)
	}
	if _, err := tree.Follow("gone"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("dangling link: got error %v", err)
	}
	if _, err := tree.Follow("loop"); err == nil || !strings.Contains(err.Error(), fmt.Sprint(maxLinks)) {
		t.Errorf("endless link: got error %v", err)
	}
}
