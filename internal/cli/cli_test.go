package cli

import (
	"bytes"
	"testing"

	"github.com/spf13/cobra"

	"github.com/rootvouch/rootvouch/internal/emulated"
)

func TestSayEmulated(t *testing.T) {
	for is, want := range map[bool]string{true: "rootvouch: " + emulated.Warning + "\n", false: ""} {
		var stdout, stderr bytes.Buffer
		cmd := &cobra.Command{}
		cmd.SetOut(&stdout)
		cmd.SetErr(&stderr)
		SayEmulated(cmd, is)
		if stderr.String() != want || stdout.Len() > 0 {
			t.Errorf("%v: got %q and %q on standard output, want %q", is, &stderr, &stdout, want)
		}
	}
}
