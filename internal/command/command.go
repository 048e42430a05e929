// Package command runs a tree of commands and reports their end to terminals and scripts.
//
// The rules for the terminal: standard output has only results. An error is one line on
// standard error, "NAME: error: …". Advice is another line, "NAME: hint: …".
package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/rootvouch/rootvouch/internal/bounded"
)

// Exit statuses. Commands document further ones in their help.
const (
	ExitError     = 1
	ExitUsage     = 64  // EX_USAGE of sysexits.h
	ExitInterrupt = 130 // 128 + SIGINT, as shells have it
)

// UsageError is a command line without a valid meaning: exit status 64.
type UsageError struct{ Err error }

func (e UsageError) Error() string { return e.Err.Error() }
func (e UsageError) Unwrap() error { return e.Err }

// ExitCode is 64.
func (UsageError) ExitCode() int { return ExitUsage }

// Usage makes err a UsageError.
func Usage(err error) error { return UsageError{err} }

// Main runs root with args until it ends or SIGINT, SIGTERM or SIGHUP (a closed terminal)
// arrives; it leaves ignored signals ignored. It returns the exit status: 0; the status of an
// error with a method ExitCode() int; 64 for a usage error; 130 when interrupted; and 1 for any
// other error. A signal ends a command that leaves nothing (see LeavesNothing) by its default
// action. An error with a method Hint() string gives advice.
func Main(root *cobra.Command, args []string, stdout, stderr io.Writer) int {
	ctx := context.Background()
	if cmd, _, err := root.Find(args); err != nil || cmd.Annotations[leavesNothing] == "" {
		var stop context.CancelFunc
		ctx, stop = signal.NotifyContext(ctx, ends(cmd)...)
		defer stop()
		// A second signal ends at once a command that does not react to the first, such as one
		// that reads a file which somebody else has to write.
		context.AfterFunc(ctx, stop)
	}
	root.SilenceUsage, root.SilenceErrors = true, true
	root.Version = BuildVersion().Version
	root.AddCommand(newVersionCommand(root.Name()))
	addMan(root)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return UsageError{err} })
	strictHelp(root)
	root.InitDefaultCompletionCmd(args...)
	strict(root)
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := misnamed(root, args)
	if err == nil {
		err = root.ExecuteContext(ctx)
	}
	switch {
	case err == nil:
		return 0
	case ctx.Err() != nil:
		fmt.Fprintf(stderr, "%s: interrupted\n", root.Name())
		return ExitInterrupt
	}
	report(root.Name(), err, stderr)
	return exitCode(err)
}

const leavesNothing = "leaves nothing"

// LeavesNothing says that cmd leaves nothing behind whenever it ends, so signals keep their
// default action. To catch signals takes two threads and half a millisecond, an eighth of the
// time of a launch digest.
func LeavesNothing(cmd *cobra.Command) {
	if cmd.Annotations == nil {
		cmd.Annotations = map[string]string{}
	}
	cmd.Annotations[leavesNothing] = "true"
}

const reloads = "reloads"

// Reloads says that cmd is a service. SIGHUP makes it read its files again and does not end it.
func Reloads(cmd *cobra.Command) {
	if cmd.Annotations == nil {
		cmd.Annotations = map[string]string{}
	}
	cmd.Annotations[reloads] = "true"
}

// ends are the signals that end a command in order, so that it undoes unfinished work. Signals
// that the parent process ignored stay ignored: SIGHUP under nohup, SIGINT in the background of
// a script.
func ends(cmd *cobra.Command) []os.Signal {
	signals := []os.Signal{syscall.SIGTERM}
	for _, s := range []os.Signal{os.Interrupt, syscall.SIGHUP} {
		if !signal.Ignored(s) && (s != syscall.SIGHUP || cmd == nil || cmd.Annotations[reloads] == "") {
			signals = append(signals, s)
		}
	}
	return signals
}

func report(name string, err error, stderr io.Writer) {
	if message := err.Error(); message != "" {
		fmt.Fprintf(stderr, "%s: error: %s\n", name, message)
	}
	if hinted, ok := errors.AsType[interface {
		error
		Hint() string
	}](err); ok {
		fmt.Fprintf(stderr, "%s: hint: %s\n", name, hinted.Hint())
	}
}

func exitCode(err error) int {
	if coded, ok := errors.AsType[interface {
		error
		ExitCode() int
	}](err); ok && coded.ExitCode() > 0 {
		return coded.ExitCode()
	}
	// cobra has no types for its own errors.
	for _, usage := range []string{"required flag(s) ", "unknown command ", "if any flags in the group ", "at least one of the flags in the group ", "invalid argument "} {
		if strings.HasPrefix(err.Error(), usage) {
			return ExitUsage
		}
	}
	return ExitError
}

// strict makes wrong arguments usage errors everywhere. A word that names no command of a group
// is a usage error, too. cobra would print the group's help and exit with 0, so a misspelt
// "keys disabel" in a script would silently disable nothing.
func strict(cmd *cobra.Command) {
	if cmd.HasSubCommands() && !cmd.Runnable() {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknown(cmd, args[0])
			}
			return nil
		}
		cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
		if cmd.Annotations == nil {
			cmd.Annotations = map[string]string{}
		}
		cmd.Annotations[group] = "true"
	}
	if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return UsageError{err}
			}
			return nil
		}
	}
	for _, child := range cmd.Commands() {
		strict(child)
	}
}

// misnamed returns an error if the words before the first flag name no command. cobra would
// report the flags first. Words that begin with __ are cobra's own.
func misnamed(root *cobra.Command, args []string) error {
	cmd, rest, err := root.Find(args)
	if err != nil || len(rest) == 0 || strings.HasPrefix(rest[0], "-") || strings.HasPrefix(rest[0], "__") || !cmd.HasSubCommands() || cmd.Annotations[group] == "" {
		return nil
	}
	return UsageError{unknown(cmd, rest[0])}
}

// group marks a command that only has subcommands.
const group = "group"

// unknown is the error of a word that names no command. It suggests similar commands.
func unknown(cmd *cobra.Command, word string) error {
	err := fmt.Errorf("unknown command %q for %q", word, cmd.CommandPath())
	cmd.SuggestionsMinimumDistance = 2
	if like := cmd.SuggestionsFor(word); len(like) > 0 {
		return WithHint(err, "did you mean "+strings.Join(like, " or ")+"?")
	}
	return err
}

// strictHelp makes help for an unknown command an error.
func strictHelp(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	for _, help := range root.Commands() {
		if help.Name() != "help" {
			continue
		}
		help.Run = nil
		help.RunE = func(_ *cobra.Command, args []string) error {
			cmd, rest, err := root.Find(args)
			if err == nil && len(rest) > 0 {
				err = unknown(cmd, rest[0])
			}
			if err != nil {
				return UsageError{err}
			}
			cmd.InitDefaultHelpFlag() // puts it into the list
			return cmd.Help()
		}
	}
}

// NoArguments refuses arguments. cobra's NoArgs calls them unknown commands, but most are
// misplaced values of a flag.
func NoArguments(cmd *cobra.Command, args []string) error {
	switch {
	case len(args) == 0:
		return nil
	case cmd.HasSubCommands():
		return fmt.Errorf("unknown command %q for %q, which takes no arguments", args[0], cmd.CommandPath())
	}
	return fmt.Errorf("got argument %q, want none for %q", args[0], cmd.CommandPath())
}

// NotEmpty makes an empty value of flags of cmd an error, because it usually comes from an
// unset variable of a script. cmd.Args must be set.
func NotEmpty(cmd *cobra.Command, flags ...string) {
	check := cmd.Args
	if check == nil {
		panic(cmd.Name() + ": internal error: NotEmpty before Args")
	}
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return err
		}
		return notEmpty(cmd, flags...)
	}
}

func notEmpty(cmd *cobra.Command, flags ...string) error {
	for _, name := range flags {
		flag := cmd.Flags().Lookup(name)
		values := []string{flag.Value.String()}
		if list, ok := flag.Value.(interface{ GetSlice() []string }); ok {
			values = list.GetSlice()
		}
		if flag.Changed && slices.Contains(values, "") {
			return UsageError{fmt.Errorf("--%s is empty", name)}
		}
	}
	return nil
}

// Require makes flags of cmd required, with a value that is not empty. cmd.Args must be set.
func Require(cmd *cobra.Command, flags ...string) {
	for _, flag := range flags {
		if err := cmd.MarkFlagRequired(flag); err != nil {
			panic(cmd.Name() + ": internal error: " + err.Error())
		}
	}
	NotEmpty(cmd, flags...)
}

// Choices makes shells complete a flag with its values.
func Choices(cmd *cobra.Command, flag string, values ...string) {
	if err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic("command: internal error: " + err.Error())
	}
}

// WithHint returns err with advice for its reader.
func WithHint(err error, hint string) error { return hinted{err, hint} }

type hinted struct {
	error
	hint string
}

func (h hinted) Unwrap() error { return h.error }
func (h hinted) Hint() string  { return h.hint }

// ReadFile reads a file of at most limit bytes. If the file cannot be read, the error is a
// UsageError. If the file is larger, the error matches bounded.ErrTooLarge.
func ReadFile(path string, limit int64) ([]byte, error) {
	data, err := bounded.ReadFile(path, limit)
	if err != nil && !errors.Is(err, bounded.ErrTooLarge) {
		return nil, Usage(err)
	}
	return data, err
}
