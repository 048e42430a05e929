// Progress runs the tests of Go modules and tells how far they are.
//
//	progress [GO-TEST-FLAG…] -- MODULE-DIRECTORY…
//
// It prints an estimate, and one line for each package when the package ends. After
// a minute without such a line it prints the packages that still run. At the end it
// prints the output of failed tests, the slowest packages, the skipped tests and
// the total. The exit status is 0 if every module's `go test` passed and reported
// packages, 1 if not.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, cacheFile()); err != nil {
		fmt.Fprintln(os.Stderr, "progress: error:", err)
		os.Exit(1)
	}
}

// run tests each module, and writes to out. The times are kept in the file that history
// names.
func run(ctx context.Context, args []string, out io.Writer, history string) error {
	at := slices.Index(args, "--")
	if at < 0 || at == len(args)-1 {
		return errors.New("usage: progress [GO-TEST-FLAG…] -- MODULE-DIRECTORY…")
	}
	flags, modules := args[:at], args[at+1:]
	var packages []string
	of := map[string][]string{} // :: module -> its packages
	for _, dir := range modules {
		listed, err := list(ctx, dir)
		if err != nil {
			return err
		}
		packages, of[dir] = append(packages, listed...), listed
	}
	start, past := time.Now(), readTimes(history)
	fmt.Fprintf(out, "test: %d packages; %s\n", len(packages), past.estimate(packages))
	all := newResults(len(packages))
	var failed []error
	for _, dir := range modules {
		before := len(all.ended)
		err := test(ctx, dir, flags, of[dir], all, out)
		if err == nil && len(all.ended) == before {
			err = errors.New("go test reported no package")
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("module %s: %w", dir, err))
		}
	}
	took := time.Since(start)
	all.summarize(out, took)
	if err := past.with(all, took).write(history); err != nil {
		fmt.Fprintln(out, "test: warning: the times are not kept:", err)
	}
	if err := errors.Join(failed...); err != nil {
		return err
	}
	if n := all.failures(); n > 0 {
		return fmt.Errorf("%d packages failed, and go test did not say so", n)
	}
	return nil
}

// longest ends the name of the package that takes half of the time. It starts first, and all
// others run beside it.
const longest = "/test/e2e"

// list names the packages of a module, in the order of their start.
func list(ctx context.Context, dir string) ([]string, error) {
	cmd := exec.CommandContext(ctx, "go", "list", "-e", "./...")
	cmd.Dir, cmd.Stderr = dir, os.Stderr
	listed, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("listing packages of %s: %w", dir, err)
	}
	return order(strings.Fields(string(listed))), nil
}

// order moves the longest package to the front.
func order(packages []string) []string {
	i := slices.IndexFunc(packages, func(p string) bool { return strings.HasSuffix(p, longest) })
	if i < 0 {
		return packages
	}
	first := packages[i]
	return slices.Insert(slices.Delete(packages, i, i+1), 0, first)
}

// quiet is the longest time without output. After it, the running packages are
// named.
const quiet = time.Minute

// test runs go test in a module and prints a line for each package that ends.
func test(ctx context.Context, dir string, flags, packages []string, all *results, out io.Writer) error {
	cmd := exec.CommandContext(ctx, "go", slices.Concat([]string{"test", "-json"}, flags, packages)...)
	cmd.Dir, cmd.Stderr = dir, os.Stderr
	// An interrupt, so that go ends its tests rather than leave them behind.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	lines := make(chan []byte)
	var readErr error
	go func() {
		defer close(lines)
		readErr = scan(stdout, lines)
	}()
	timer := time.NewTimer(quiet)
	defer timer.Stop()
	for open := true; open; {
		select {
		case line, more := <-lines:
			if open = more; !more {
				break
			}
			if text := all.take(line); text != "" {
				fmt.Fprint(out, text)
				timer.Reset(quiet)
			}
		case now := <-timer.C:
			fmt.Fprint(out, all.running(now))
			timer.Reset(quiet)
		}
	}
	return errors.Join(readErr, cmd.Wait())
}

// scan sends each line of in, however long. It reads to the end even after an error, so
// that go test never waits for a reader.
func scan(in io.Reader, lines chan<- []byte) error {
	for reader := bufio.NewReader(in); ; {
		line, err := reader.ReadBytes('\n')
		if len(line) > 0 {
			lines <- line
		}
		if errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("reading the output of go test: %w", err)
		}
	}
}
