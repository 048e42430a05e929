//go:build man

package command

import (
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// addMan adds the command that writes the man pages of root's tree. Only programs built with
// the tag "man" have it. scripts/dist builds such a program and throws it away, so the programs
// of users link no writer of man pages.
func addMan(root *cobra.Command) {
	root.AddCommand(&cobra.Command{
		Use: "man DIR EPOCH", Hidden: true, Args: cobra.ExactArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			seconds, err := strconv.ParseInt(args[1], 10, 64)
			if err != nil {
				return Usage(fmt.Errorf("EPOCH is %q, want seconds since 1970", args[1]))
			}
			date := time.Unix(seconds, 0).UTC()
			root.DisableAutoGenTag = true
			return doc.GenManTreeFromOpts(root, doc.GenManTreeOptions{
				Header:           &doc.GenManHeader{Section: "1", Source: root.Name() + " " + root.Version, Manual: "rootvouch", Date: &date},
				Path:             args[0],
				CommandSeparator: "-",
			})
		},
	})
}
