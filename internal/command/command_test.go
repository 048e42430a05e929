package command

import (
	"errors"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

type failure struct{ code int }

func (f failure) Error() string { return "did not work" }
func (f failure) ExitCode() int { return f.code }
func (f failure) Hint() string  { return "try again" }

func tree() *cobra.Command {
	root := &cobra.Command{Use: "tool"}
	group := &cobra.Command{Use: "keys"}
	leaf := &cobra.Command{Use: "disable NAME", Args: cobra.ExactArgs(1), RunE: func(*cobra.Command, []string) error { return nil }}
	leaf.Flags().String("socket", "", "")
	if err := leaf.MarkFlagRequired("socket"); err != nil {
		panic(err)
	}
	fails := &cobra.Command{Use: "fail", RunE: func(*cobra.Command, []string) error { return failure{3} }}
	plain := &cobra.Command{Use: "plain", RunE: func(*cobra.Command, []string) error { return errors.New("no") }}
	group.AddCommand(leaf)
	root.AddCommand(group, fails, plain)
	return root
}

func TestMainStatus(t *testing.T) {
	for _, c := range []struct {
		args   string
		status int
		stderr string
	}{
		{"", 0, ""},
		{"keys", 0, ""},
		{"keys disable x --socket s", 0, ""},
		{"keys disabel x --socket s", 64, "unknown flag"},
		{"keys disabel x", 64, `unknown command "disabel" for "tool keys"`},
		{"kezs", 64, `unknown command "kezs"`},
		{"keys disable --socket s", 64, "accepts 1 arg"},
		{"keys disable x", 64, `required flag(s) "socket"`},
		{"keys disable x --socke s", 64, "unknown flag"},
		{"fail", 3, "tool: error: did not work\ntool: hint: try again\n"},
		{"plain", 1, "tool: error: no\n"},
	} {
		t.Run(c.args, func(t *testing.T) {
			var stdout, stderr strings.Builder
			status := Main(tree(), strings.Fields(c.args), &stdout, &stderr)
			if status != c.status || !strings.Contains(stderr.String(), c.stderr) || (status == 0) != (stderr.String() == "") {
				t.Errorf("got status %d and %q, want %d and %q", status, stderr.String(), c.status, c.stderr)
			}
		})
	}
}
