package main

import (
	"testing"

	"github.com/spf13/cobra"
)

// TestCommands: a command is made under its own name, alone when it is named and
// with all others when not.
func TestCommands(t *testing.T) {
	for name, create := range commands() {
		if got := create().Name(); got != name {
			t.Errorf("command %q calls itself %q", name, got)
		}
		if got := newRootCommand([]string{name, "--help"}).Commands(); len(got) != 1 || got[0].Name() != name {
			t.Errorf("%q: got %d commands, want it alone", name, len(got))
		}
	}
	for _, args := range [][]string{nil, {"help", "measure"}, {"--version"}, {"measur"}, {"__complete", "me"}} {
		if got, want := len(newRootCommand(args).Commands()), len(commands()); got != want {
			t.Errorf("%q: got %d commands, want %d", args, got, want)
		}
	}
}

// TestExamples: the README says that help has one for each command.
func TestExamples(t *testing.T) {
	var look func(cmd *cobra.Command)
	look = func(cmd *cobra.Command) {
		if cmd.Runnable() && cmd.Example == "" {
			t.Errorf("%q has no example", cmd.CommandPath())
		}
		for _, child := range cmd.Commands() {
			look(child)
		}
	}
	look(newRootCommand(nil))
}
