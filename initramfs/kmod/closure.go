package kmod

import (
	"fmt"
	"slices"
	"strings"
)

// Want asks for a module.
type Want struct {
	// Names of the module, in order of preference: kernels rename modules.
	Names []string
	// Optional says that the kernel may lack it.
	Optional bool
}

// Selection is the result for a list of wants.
type Selection struct {
	// Modules are in an order in which they can be loaded.
	Modules []Module
	// BuiltIn are the wants that are built into the kernel.
	BuiltIn []string
	// Missing are the optional wants and the soft dependencies that this kernel
	// lacks.
	Missing []string
}

// Select finds the wanted modules and their hard and soft dependencies. It returns
// an error if the kernel has a required want, or a hard dependency, neither as a
// module nor built in. The error lists all missing wants.
func (t *Tree) Select(wants []Want) (Selection, error) {
	c := closure{tree: t, state: map[string]state{}}
	var lost []string
	for _, w := range wants {
		names := make([]string, len(w.Names))
		for i, name := range w.Names {
			names[i] = normal(name)
		}
		label := strings.Join(names, " or ")
		i := slices.IndexFunc(names, func(n string) bool { return t.modules[n] != nil })
		switch {
		case i >= 0:
			if err := c.add(names[i]); err != nil {
				return Selection{}, fmt.Errorf("adding module %s: %w", names[i], err)
			}
		case slices.ContainsFunc(names, func(n string) bool { return t.builtin[n] }):
			c.out.BuiltIn = append(c.out.BuiltIn, label)
		case w.Optional:
			c.missing(label)
		default:
			lost = append(lost, label)
		}
	}
	if len(lost) != 0 {
		return Selection{}, t.from.hint(fmt.Errorf("kernel %s lacks modules, as files and built in: %s", t.version, strings.Join(lost, ", ")))
	}
	return c.out, nil
}

type state int

const (
	loading state = iota + 1 // further up in the current walk
	loaded
)

// closure is one walk over the dependencies, depth first.
type closure struct {
	tree  *Tree
	state map[string]state
	out   Selection
}

func (c *closure) add(name string) error {
	switch c.state[name] {
	case loaded:
		return nil
	case loading:
		return fmt.Errorf("module %s depends on itself", name)
	}
	files := c.tree.modules[name]
	if len(files) > 1 && rank(files[0]) == rank(files[1]) {
		return fmt.Errorf("module %s is in the files %q, want one", name, files)
	}
	m, err := c.tree.load(name, files[0])
	if err != nil {
		return err
	}
	c.state[name] = loading
	if err := c.addSoft(m.pre); err != nil {
		return err
	}
	for _, d := range m.depends {
		if c.tree.modules[d] == nil {
			if c.tree.builtin[d] {
				continue
			}
			return c.tree.from.hint(fmt.Errorf("module %s depends on %s, which is neither a module nor built in", name, d))
		}
		if err := c.add(d); err != nil {
			return err
		}
	}
	c.out.Modules = append(c.out.Modules, *m)
	c.state[name] = loaded
	return c.addSoft(m.post)
}

// addSoft adds soft dependencies. It skips a module that is being added already,
// and notes one that is not in the tree.
func (c *closure) addSoft(names []string) error {
	for _, name := range names {
		switch {
		case c.state[name] != 0:
		case c.tree.modules[name] != nil:
			if err := c.add(name); err != nil {
				return err
			}
		case c.tree.builtin[name]:
		default:
			c.missing(name)
		}
	}
	return nil
}

func (c *closure) missing(name string) {
	if !slices.Contains(c.out.Missing, name) {
		c.out.Missing = append(c.out.Missing, name)
	}
}
