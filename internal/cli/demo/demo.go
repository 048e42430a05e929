// Package demo is "rootvouch demo": it shows the whole chain on one machine.
package demo

import (
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/rootvouch/rootvouch/demo"
	"github.com/rootvouch/rootvouch/internal/command"
)

// New makes the command.
func New() *cobra.Command {
	var bin, out string
	var console bool
	var limit time.Duration
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Show the whole chain on this machine, emulated: NOT CONFIDENTIAL",
		Long: `Run the main job end to end on the emulated platform: NOT CONFIDENTIAL.

The demo starts a stock SPIRE server and agent and a key server; builds a release of
a VM from vm.json: a disk from a small Debian root, a measured initramfs and the
reference values; makes it live; boots the VM, which gets the key for its evidence;
and asks the running VM for a report. Each step says what it proved. The last line is
the verdict.

The demo shows each command that it runs. You can type the commands yourself:
docs/walk.md explains them. $STATE in them is a directory with all keys, which the
demo removes at its end. The demo needs the files that scripts/setup and make build
make; make demo calls both. All processes of the demo end with it, also after Ctrl-C.
It leaves its cache and the output directory, with the release (whose key is gone), the
proof that the VM gave, a picture of the boot, and logs.`,
		Example: `  make demo
  rootvouch demo --out-dir /tmp/demo`,
		Args: command.NoArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cache, err := demo.CacheDir()
			if err != nil {
				return err
			}
			if bin == "" {
				self, err := os.Executable()
				if err != nil {
					return err
				}
				bin = filepath.Dir(self)
			}
			parts, err := demo.FindParts(bin, cache)
			if err != nil {
				return err
			}
			_, terminal := cmd.OutOrStdout().(*os.File)
			terminal = terminal && term.IsTerminal(int(os.Stdout.Fd()))
			return demo.Run(cmd.Context(), demo.Options{
				Parts: parts, Cache: cache, Out: out, Until: limit,
				Voice: &demo.Voice{Out: cmd.OutOrStdout(), Terminal: terminal, Console: console},
			})
		},
	}
	cmd.Flags().StringVar(&out, "out-dir", "out", "directory to write (what the demo makes)")
	cmd.Flags().BoolVar(&console, "show-console", false, "show the VM's whole console, not only PID 1's steps")
	cmd.Flags().StringVar(&bin, "bin", "", "directory of the programs from make build (default: this program's)")
	cmd.Flags().DurationVar(&limit, "timeout", 5*time.Minute, "how long to wait before giving up (for the VM to come up)")
	return cmd
}
