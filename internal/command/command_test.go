package command

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/rootvouch/rootvouch/test/childtest"
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
	Require(leaf, "socket")
	fails := &cobra.Command{Use: "fail", Args: NoArguments, RunE: func(*cobra.Command, []string) error { return failure{3} }}
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
		{"keys disabel x --socket s", 64, `unknown command "disabel" for "tool keys"`},
		{"kezs --socket s", 64, `unknown command "kezs" for "tool"`},
		{"keys --socket s", 64, "unknown flag"},
		{"keys disabel x", 64, `unknown command "disabel" for "tool keys"`},
		{"kezs", 64, `unknown command "kezs"`},
		{"help keys disable", 0, ""},
		{"help", 0, ""},
		{"help keys disabel", 64, `unknown command "disabel" for "tool keys"`},
		{"help kezs", 64, `unknown command "kezs" for "tool"`},
		{"fail x", 64, `got argument "x", want none for "tool fail"`},
		{"keys disable x --socket=", 64, "--socket is empty"},
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

// TestSecondSignal runs itself as a command that does not hear the first signal.
func TestSecondSignal(t *testing.T) {
	if os.Getenv("ROOTVOUCH_TEST_DEAF") != "" {
		root := &cobra.Command{Use: "tool", RunE: func(cmd *cobra.Command, args []string) error {
			fmt.Fprintln(cmd.OutOrStdout(), "ready")
			<-cmd.Context().Done()
			fmt.Fprintln(cmd.OutOrStdout(), "deaf")
			time.Sleep(10 * time.Second)
			return nil
		}}
		os.Exit(Main(root, nil, os.Stdout, os.Stderr))
	}
	deaf := childtest.Tied(exec.Command(os.Args[0], "-test.run=TestSecondSignal$"))
	deaf.Env = append(os.Environ(), "ROOTVOUCH_TEST_DEAF=1")
	out, err := deaf.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := deaf.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for _, want := range []string{"ready", "deaf"} {
		if !lines.Scan() || lines.Text() != want {
			t.Fatalf("got %q, want %q", lines.Text(), want)
		}
		if want == "deaf" {
			time.Sleep(100 * time.Millisecond) // until the signal has its own meaning again
		}
		if err := deaf.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
	}
	if err := deaf.Wait(); err == nil || err.Error() != "signal: terminated" {
		t.Errorf("got %v, want the end by the signal", err)
	}
}

// TestSignals: a command hears of the end, unless it was told not to.
func TestSignals(t *testing.T) {
	sent := syscall.SIGHUP
	if signal.Ignored(sent) { // under nohup
		sent = syscall.SIGTERM
	}
	root := &cobra.Command{Use: "tool", RunE: func(cmd *cobra.Command, args []string) error {
		if err := syscall.Kill(os.Getpid(), sent); err != nil {
			return err
		}
		select {
		case <-cmd.Context().Done():
			return cmd.Context().Err()
		case <-time.After(10 * time.Second):
			return errors.New("heard nothing")
		}
	}}
	var stdout, stderr strings.Builder
	if status := Main(root, nil, &stdout, &stderr); status != ExitInterrupt || stderr.String() != "tool: interrupted\n" {
		t.Errorf("got status %d and %q, want %d", status, stderr.String(), ExitInterrupt)
	}
	signal.Ignore(syscall.SIGHUP)
	defer func() { // Reset alone leaves it ignored
		heard := make(chan os.Signal, 1)
		signal.Notify(heard, syscall.SIGHUP)
		signal.Stop(heard)
	}()
	if slices.Contains(ends(nil), os.Signal(syscall.SIGHUP)) {
		t.Error("SIGHUP ends a command under nohup")
	}
}

// TestLeavesNothing: signals have their own meaning for such a command, and for no
// other of the same tree.
func TestLeavesNothing(t *testing.T) {
	listens := map[string]bool{}
	leaf := func(name string) *cobra.Command {
		return &cobra.Command{Use: name, RunE: func(cmd *cobra.Command, _ []string) error {
			listens[name] = cmd.Context().Done() != nil
			return nil
		}}
	}
	group, show, build := leaf("group"), leaf("show"), leaf("build")
	LeavesNothing(group)
	LeavesNothing(show)
	root := &cobra.Command{Use: "tool"}
	group.AddCommand(build)
	root.AddCommand(group, show)
	for _, args := range [][]string{{"group"}, {"show"}, {"group", "build"}} {
		if status := Main(root, args, io.Discard, io.Discard); status != 0 {
			t.Fatalf("%q: got status %d", args, status)
		}
	}
	if want := map[string]bool{"group": false, "show": false, "build": true}; !maps.Equal(listens, want) {
		t.Errorf("listen to signals: got %v, want %v", listens, want)
	}
}
