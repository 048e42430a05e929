package main

import "testing"

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
