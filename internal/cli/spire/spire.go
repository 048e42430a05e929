// Package spire is "rootvouch spire": it runs the program rootvouch-spire.
package spire

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/rootvouch/rootvouch/internal/cli"
	"github.com/rootvouch/rootvouch/internal/command"
)

// Program is what "rootvouch spire" runs.
const Program = cli.SpireProgram

// New makes the command.
func New() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "spire",
		Short: "Set up stock SPIRE for rootvouch: trust root, settings, entries",
		Long: `Set up stock SPIRE for rootvouch. The command runs ` + Program + `, a separate program
beside rootvouch, because only that program speaks to a SPIRE server.`,
		Example:            `  rootvouch spire --help  # lists what it does`,
		DisableFlagParsing: true,
		RunE:               func(_ *cobra.Command, args []string) error { return becomeSpire(args) },
		ValidArgsFunction:  completeSpire,
	}
	command.LeavesNothing(cmd) // so that no signal is lost before exec
	return cmd
}

// becomeSpire replaces this process with the program. It returns only on failure.
func becomeSpire(args []string) error {
	path, err := cli.SpirePath()
	if err != nil {
		return err
	}
	err = fmt.Errorf("starting %s: %w", path, unix.Exec(path, append([]string{Program}, args...), os.Environ()))
	if _, missing := os.Lstat(path); errors.Is(missing, fs.ErrNotExist) {
		return command.WithHint(err, "make build makes both; install them side by side")
	}
	return err
}

// completeSpire asks the program for completions of a command line: one per line, then a colon
// and cobra's directive.
func completeSpire(_ *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
	path, err := cli.SpirePath()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	out, err := exec.Command(path, append(append([]string{cobra.ShellCompRequestCmd}, args...), begun)...).Output()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	lines := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
	last, ok := strings.CutPrefix(lines[len(lines)-1], ":")
	directive, err := strconv.Atoi(last)
	if !ok || err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	return lines[:len(lines)-1], cobra.ShellCompDirective(directive)
}
