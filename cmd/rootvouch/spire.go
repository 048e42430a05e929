package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/rootvouch/rootvouch/internal/command"
)

// spireProgram is what "rootvouch spire" runs.
const spireProgram = "rootvouch-spire"

func newSpireCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "spire",
		Short: "Set up stock SPIRE for rootvouch: trust root, settings, entries",
		Long: `Set up stock SPIRE for rootvouch. This is a program of its own, ` + spireProgram + `, which
belongs beside rootvouch: only it speaks to a SPIRE server.

  rootvouch spire --help  lists what it does`,
		DisableFlagParsing: true,
		RunE:               func(_ *cobra.Command, args []string) error { return becomeBeside(spireProgram, args) },
	}
}

// becomeBeside replaces this process by the program name in the folder where
// this one is, its links resolved; PATH is not looked at. It returns only if that
// fails.
func becomeBeside(name string, args []string) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("looking for %s: %w", name, err)
	}
	if self, err = filepath.EvalSymlinks(self); err != nil {
		return fmt.Errorf("looking for %s: %w", name, err)
	}
	path := filepath.Join(filepath.Dir(self), name)
	err = fmt.Errorf("starting %s: %w", path, unix.Exec(path, append([]string{name}, args...), os.Environ()))
	if errors.Is(err, fs.ErrNotExist) {
		return command.WithHint(err, "make build makes both; install them side by side")
	}
	return err
}
