package image

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/rootvouch/rootvouch/internal/durable"
	"github.com/rootvouch/rootvouch/pins"
)

// Files names the outputs of a build.
type Files struct {
	Disk, Key, Pins string // paths
	Force           bool   // replace existing files

	// Keep lists files that are inputs, or needed to undo the work. No output may replace one,
	// even with Force.
	Keep []string

	// KeyTo receives the key instead of the file Key: its 32 bytes in one write, after disk and
	// pins have their names. So a reader of the key can rely on both files, and no file holds
	// the key.
	KeyTo io.Writer
}

// BuildFiles builds a disk into files. All three appear complete, or none does. Until
// everything is written they have temporary names. If one cannot get its name, or KeyTo fails,
// the others lose theirs. The key file holds the 32 bytes of secrets.Key, and only its owner
// can read it.
func BuildFiles(ctx context.Context, files Files, source Source, secrets *Secrets, options Options) (pins.Pins, error) {
	o := durable.Set{Replace: files.Force, Keep: files.Keep}
	defer o.Abort()
	// The outputs are opened first, so that a wrong name shows before the work.
	disk, err := o.Add(files.Disk, 0o644)
	if err != nil {
		return pins.Pins{}, err
	}
	var key *durable.File
	if files.KeyTo == nil {
		if key, err = o.Add(files.Key, 0o600); err != nil {
			return pins.Pins{}, err
		}
	}
	pinsFile, err := o.Add(files.Pins, 0o644)
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
	if err := o.Commit(); err != nil {
		return pins.Pins{}, err
	}
	if files.KeyTo != nil {
		if _, err := files.KeyTo.Write(secrets.Key[:]); err != nil {
			o.Remove() // nobody has the key of this disk
			return pins.Pins{}, fmt.Errorf("passing the key on: %w", err)
		}
	}
	return p, nil
}
