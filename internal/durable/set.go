package durable

import (
	"fmt"
	"os"
)

// Set is a group of outputs that appear together: all of them, complete, or none. The zero
// value is an empty set that replaces nothing.
type Set struct {
	Replace bool // replace existing files, as in New
	// Keep lists files that are inputs, or needed to undo the work. No output may replace one,
	// even with Replace.
	Keep []string

	files []*File
	named int // how many of files have their names
}

// Add starts an output. It refuses a second output of one name, because the second would
// replace the first.
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

// AddFile is Add with the output's whole data.
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

// Commit gives every output its name, in the order of Add, or gives none. Files that were
// replaced are gone in either case.
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

// Abort removes outputs that were not committed, so it can be deferred.
func (s *Set) Abort() {
	for _, f := range s.files {
		f.Abort()
	}
}

// Remove removes the outputs that have their names.
func (s *Set) Remove() {
	for ; s.named > 0; s.named-- {
		os.Remove(s.files[s.named-1].Path())
	}
}
