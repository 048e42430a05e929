package command

import (
	"encoding/json"
	"fmt"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// Version is the Go tool chain's record of a build.
type Version struct {
	// Version is the tag, or a pseudo-version of the commit. The suffix "+dirty" says that the
	// sources differ from the commit. A build without a record of its sources has "(devel)".
	Version string `json:"version"`
	// Commit is the commit's hash. Time is its time in UTC. Both are empty if not recorded.
	Commit string `json:"commit"`
	Time   string `json:"time"`
	// Go is the version of the tool chain.
	Go string `json:"go"`
}

// BuildVersion returns the version of this program.
func BuildVersion() Version {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return Version{Version: "(unknown)"}
	}
	v := Version{Version: info.Main.Version, Go: info.GoVersion}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			v.Commit = s.Value
		case "vcs.time":
			v.Time = s.Value
		}
	}
	if v.Version == "" {
		v.Version = "(unknown)"
	}
	return v
}

func newVersionCommand(program string) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Long:    `Say which version of this program runs, from which commit it was built, and with which Go.`,
		Example: "  " + program + " version\n  " + program + " version --json",
		Args:    NoArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v, out := BuildVersion(), cmd.OutOrStdout()
			if asJSON {
				data, err := json.Marshal(v)
				if err != nil {
					panic("command: internal error: " + err.Error())
				}
				_, err = fmt.Fprintf(out, "%s\n", data)
				return err
			}
			_, err := fmt.Fprintf(out, "%s %s (commit %s, %s)\n", cmd.Root().Name(), v.Version, known(v.Commit), v.Go)
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	LeavesNothing(cmd)
	return cmd
}

func known(s string) string {
	if s == "" {
		return "not recorded"
	}
	return s
}
