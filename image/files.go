package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/rootvouch/rootvouch/internal/durable"
	"github.com/rootvouch/rootvouch/pins"
)

// Files is where the results of a build go.
type Files struct {
	Disk, Key, Pins string // paths
	Force           bool   // replace what is there

	// Keep are files that are read, or needed to undo what is done: no output
	// takes the place of one, with Force or without.
	Keep []string

	// KeyTo takes the key instead of the file Key: its 32 bytes in one write,
	// after disk and pins have their names. So a reader of the key can rely on
	// both files, and no file holds the key.
	KeyTo io.Writer
}

// BuildFiles builds a disk into files. All three appear, complete, or none:
// until everything is written they have temporary names, and when one cannot
// get its name, or KeyTo does not take the key, the others lose theirs. The key
// file holds the 32 bytes of secrets.Key, for its owner to read only.
func BuildFiles(ctx context.Context, files Files, source Source, secrets *Secrets, options Options) (pins.Pins, error) {
	o := outputs{replace: files.Force, keep: files.Keep}
	defer o.abort()
	// The names are taken first, so that a mistake shows before the work.
	disk, err := o.add(files.Disk, 0o644)
	if err != nil {
		return pins.Pins{}, err
	}
	var key *durable.File
	if files.KeyTo == nil {
		if key, err = o.add(files.Key, 0o600); err != nil {
			return pins.Pins{}, err
		}
	}
	pinsFile, err := o.add(files.Pins, 0o644)
	if err != nil {
		return pins.Pins{}, err
	}
	direct := openDirect(disk)
	out := Output(direct)
	if options.Format == QCOW2 {
		out = &qcow2Output{Output: direct}
	}
	p, err := Build(ctx, out, source, secrets, options)
	if err = errors.Join(err, direct.close()); err != nil {
		return pins.Pins{}, fmt.Errorf("building %s: %w", files.Disk, err)
	}
	if key != nil {
		if _, err := key.Write(secrets.Key[:]); err != nil {
			return pins.Pins{}, fmt.Errorf("writing the key: %w", err)
		}
	}
	if _, err := pinsFile.Write(p.Encode()); err != nil {
		return pins.Pins{}, fmt.Errorf("writing the pins: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return pins.Pins{}, err
	}
	if err := o.commit(); err != nil {
		return pins.Pins{}, err
	}
	if files.KeyTo != nil {
		if _, err := files.KeyTo.Write(secrets.Key[:]); err != nil {
			o.remove(len(o.files)) // nobody can open this disk
			return pins.Pins{}, fmt.Errorf("passing the key on: %w", err)
		}
	}
	return p, nil
}

// outputs are files that appear together.
type outputs struct {
	files   []*durable.File
	replace bool
	keep    []string // what none of them may replace
}

// add starts an output. It refuses a second output of the same name, which would
// replace the first.
func (o *outputs) add(path string, perm os.FileMode) (*durable.File, error) {
	for _, f := range o.files {
		if durable.Replaces(path, f.Path()) {
			return nil, fmt.Errorf("two outputs have the name %s", path)
		}
	}
	for _, kept := range o.keep {
		if durable.Replaces(path, kept) {
			return nil, fmt.Errorf("the output %s would replace %s, which is needed", path, kept)
		}
	}
	f, err := durable.New(path, perm, o.replace)
	if err != nil {
		return nil, err
	}
	o.files = append(o.files, f)
	return f, nil
}

// abort removes what was not committed.
func (o *outputs) abort() {
	for _, f := range o.files {
		f.Abort()
	}
}

// commit gives every file its name, or none (what --force replaced is gone).
func (o *outputs) commit() error {
	for i, f := range o.files {
		if err := f.Commit(); err != nil {
			o.remove(i)
			return err
		}
	}
	return nil
}

// remove takes the first n files away again.
func (o *outputs) remove(n int) {
	for _, done := range o.files[:n] {
		os.Remove(done.Path())
	}
}
