// Package cli holds the flags, input files and output that the owner's commands
// share. Each noun of the command line is a package below it.
package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/rootvouch/rootvouch/internal/command"
	"github.com/rootvouch/rootvouch/internal/durable"
	"github.com/rootvouch/rootvouch/internal/emulated"
)

// Output is one --out with its --force.
type Output struct {
	Path  string
	Force bool
}

// Bind adds both flags to cmd. what names the output in the help. cmd.Args must be set.
func (o *Output) Bind(cmd *cobra.Command, what string) {
	cmd.Flags().StringVar(&o.Path, "out", "", "file to write ("+what+")")
	cmd.Flags().BoolVar(&o.Force, "force", false, "replace existing files")
	command.Require(cmd, "out")
}

// Write makes the file appear with all its data.
func (o *Output) Write(data []byte) error {
	if o.Force {
		return durable.WriteFile(o.Path, data, 0o644)
	}
	return HintForce(durable.Create(o.Path, data, 0o644))
}

// HintForce adds advice to an error about an existing file.
func HintForce(err error) error {
	if errors.Is(err, os.ErrExist) {
		return command.WithHint(err, "--force replaces existing files")
	}
	return err
}

// PrintJSON prints v, indented.
func PrintJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// Say writes a line of progress to standard error.
func Say(cmd *cobra.Command, format string, args ...any) {
	fmt.Fprintf(cmd.ErrOrStderr(), "rootvouch: "+format+"\n", args...)
}

// SayEmulated prints the warning about emulation if is is true.
func SayEmulated(cmd *cobra.Command, is bool) {
	if is {
		Say(cmd, "%s", emulated.Warning)
	}
}

// WithStatus gives err an exit status of its own.
func WithStatus(err error, status int) error { return statusError{err, status} }

type statusError struct {
	error
	status int
}

func (e statusError) ExitCode() int { return e.status }
func (e statusError) Unwrap() error { return e.error }
