// Package kept keeps the latest evidence that could not be verified because a
// certificate was missing.
//
// An operator gives the evidence to "collateral fetch --report", and the next boot
// of the same host passes. The evidence is unverified, and strangers can send any
// amount of it. So the directory has one file for each chip and TCB, and a bound on
// the number of files. A new file replaces the oldest.
package kept

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/rootvouch/rootvouch/internal/durable"
	"github.com/rootvouch/rootvouch/snp"
)

// max bounds the number of files in a directory.
const max = 64

const prefix, suffix = "evidence-", ".json"

// Dir keeps evidence in a directory. Its zero value keeps nothing. Its methods may be
// called at the same time.
type Dir struct {
	path string

	mu sync.Mutex // guards the directory's files
}

// Open returns the directory at path, and makes it if it is missing. If path is "",
// the Dir keeps nothing.
func Open(path string) (*Dir, error) {
	if path == "" {
		return &Dir{}, nil
	}
	if err := os.Mkdir(path, 0o750); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("making the directory for evidence: %w", err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("opening the directory for evidence: %w", err)
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("opening the directory for evidence: %s is a file, want a directory", path)
	}
	return &Dir{path: path}, nil
}

// Keep writes encoded evidence, unless the directory has evidence of the same chip
// and TCB, and returns the file's name. If d keeps nothing, the name is "".
func (d *Dir) Keep(encoded []byte, report *snp.Report) (string, error) {
	if d.path == "" {
		return "", nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	path := filepath.Join(d.path, name(report))
	if _, err := os.Lstat(path); err == nil {
		return path, nil
	}
	if err := d.makeRoom(); err != nil {
		return "", fmt.Errorf("keeping evidence: %w", err)
	}
	if err := durable.WriteFile(path, encoded, 0o640); err != nil {
		return "", fmt.Errorf("keeping evidence: %w", err)
	}
	return path, nil
}

// name returns the file name for a chip and TCB.
func name(r *snp.Report) string {
	chip := sha256.Sum256(r.ChipID[:])
	return fmt.Sprintf("%s%x-%s%s", prefix, chip[:8], r.ReportedTCB, suffix)
}

// makeRoom removes the oldest files until there is room for one more. It leaves
// files with other names alone.
func (d *Dir) makeRoom() error {
	for {
		entries, err := os.ReadDir(d.path)
		if err != nil {
			return err
		}
		var oldest fs.FileInfo
		n := 0
		for _, e := range entries {
			if !strings.HasPrefix(e.Name(), prefix) || !strings.HasSuffix(e.Name(), suffix) {
				continue
			}
			info, err := e.Info()
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return err
			}
			if n++; oldest == nil || info.ModTime().Before(oldest.ModTime()) {
				oldest = info
			}
		}
		if n < max {
			return nil
		}
		if err := os.Remove(filepath.Join(d.path, oldest.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
}
