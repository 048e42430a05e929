package vm

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/rootvouch/rootvouch/boot/bootlog"
	"github.com/rootvouch/rootvouch/boot/timeline"
	"github.com/rootvouch/rootvouch/internal/cli"
	"github.com/rootvouch/rootvouch/internal/command"
	"github.com/rootvouch/rootvouch/internal/durable"
)

// times records when lines appeared on a console. A nil times records nothing.
type times struct {
	begin time.Time

	mu   sync.Mutex
	file *os.File // guarded by mu
	err  error    // the first write error; guarded by mu
}

func openTimes(path string, begin time.Time) (*times, error) {
	if path == "" {
		return nil, nil
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return nil, fmt.Errorf("opening the file of times: %w", err)
	}
	return &times{begin: begin, file: file}, nil
}

func (t *times) line(text string) { t.write(timeline.Event{Line: text}) }
func (t *times) mark(name string) { t.write(timeline.Event{Mark: name}) }

func (t *times) write(e timeline.Event) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	e.MS = uint64(time.Since(t.begin).Milliseconds())
	if t.err == nil {
		_, t.err = t.file.Write(e.Encode())
	}
}

func (t *times) close() error {
	if t == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return errors.Join(t.err, t.file.Close())
}

func newTimelineCommand() *cobra.Command {
	var timesFile, logFile, svg string
	cmd := &cobra.Command{
		Use:   "timeline --times FILE [--boot-log FILE] [--svg-out FILE]",
		Short: "Show where a boot's time went",
		Long: `Show the time of each part of a boot, from the launch to multi-user: firmware, kernel,
each step of PID 1, and the booted system. The output is text, and with --svg-out also
a picture.

--times is a file of "vm run --times", --boot-log one of "attest --boot-log-out".
Without a boot log PID 1's steps come from its lines on the console. All of it is the
host's and the guest's word: it explains a boot and proves nothing.`,
		Example: `  rootvouch vm timeline --times times.jsonl --boot-log bootlog.json --svg-out boot.svg`,
		Args:    command.NoArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			data, err := cli.ReadInput(timesFile, timeline.MaxSize)
			if err != nil {
				return err
			}
			events, err := timeline.Decode(data)
			if err != nil {
				return cli.Malformed("%s: %w", timesFile, err)
			}
			var log *bootlog.Log
			if logFile != "" {
				data, err := cli.ReadInput(logFile, bootlog.MaxSize)
				if err != nil {
					return err
				}
				decoded, err := bootlog.Decode(data)
				if err != nil {
					return cli.Malformed("%s: %w", logFile, err)
				}
				log = &decoded
			}
			boot, err := timeline.New(events, log)
			if err != nil {
				return cli.Malformed("%s: %w", timesFile, err)
			}
			if svg != "" {
				if err := cli.HintForce(durable.Create(svg, boot.SVG(), 0o644)); err != nil {
					return err
				}
			}
			_, err = cmd.OutOrStdout().Write(boot.Text())
			return err
		},
	}
	cmd.Flags().StringVar(&timesFile, "times", "", "file for the times of the console's lines, for \"vm timeline\" (to read)")
	cmd.Flags().StringVar(&logFile, "boot-log", "", "boot log of this VM (of attest --boot-log-out)")
	cmd.Flags().StringVar(&svg, "svg-out", "", "write the picture to this file (must not exist)")
	command.Require(cmd, "times")
	command.NotEmpty(cmd, "boot-log", "svg-out")
	return cmd
}
