package durable

import (
	"fmt"
	"os"
)

// Set is outputs that appear together: all of them, complete, or none. The zero
// value is an empty one that replaces nothing.
type Set struct {
	Replace bool // what is there; else see New
	// Keep are files that are read, or needed to undo what is done: no output takes
	// the place of one, with Replace or without.
	Keep []string

	files []*File
	named int // of files, from the first on
}

// Add starts an output. Two of one name would both seem to be there in the end, and
// one would be lost.
func (s *Set) Add(path string, perm os.FileMode) (*File, error) {
	for _, f := range s.files {
		if Replaces(path, f.Path()) {
			return nil, fmt.Errorf("two outputs have the name %s", path)
		}
	}
	for _, kept := range s.Keep {
		if Replaces(path, kept) {
			return nil, fmt.Errorf("the output %s would replace %s, which is needed", path, kept)
		}
	}
	f, err := New(path, perm, s.Replace)
	if err != nil {
		return nil, err
	}
	s.files = append(s.files, f)
	return f, nil
}

// AddFile is Add with all of the output's data.
func (s *Set) AddFile(path string, data []byte, perm os.FileMode) error {
	f, err := s.Add(path, perm)
	if err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

// Commit gives every output its name, in the order in which they were added, or
// none (what was replaced is gone).
func (s *Set) Commit() error {
	for _, f := range s.files {
		if err := f.Commit(); err != nil {
			s.Remove()
			return err
		}
		s.named++
	}
	return nil
}

// Abort removes what was not committed, so it can be deferred.
func (s *Set) Abort() {
	for _, f := range s.files {
		f.Abort()
	}
}

// Remove takes away again what has its name.
func (s *Set) Remove() {
	for ; s.named > 0; s.named-- {
		os.Remove(s.files[s.named-1].Path())
	}
}
