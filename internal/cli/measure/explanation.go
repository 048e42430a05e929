package measure

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rootvouch/rootvouch/internal/cli"
	"github.com/rootvouch/rootvouch/snp/launch/explain"
)

// explanation is what "measure explain" found.
type explanation struct {
	Got          string             `json:"got"`
	Explained    bool               `json:"explained"`
	SameAs       *shape             `json:"no_difference,omitempty"` // the inputs give the digest
	RefVals      []comparison       `json:"refvals"`
	Tried        int                `json:"tried"`        // digests
	Explanations [][]explain.Change `json:"explanations"` // each a set of changes that leads to the digest
	NotTried     []string           `json:"not_tried"`    // candidates, and why

	answer *explain.Answer // of the search, where one was made
}

// shape is what differs between the digests of one release.
type shape struct {
	VCPUs   int    `json:"vcpus"`
	CPUType string `json:"cpu_type"`
}

// comparison is what reference values say of the digest and the files.
type comparison struct {
	RefVal   string         `json:"refval"`
	MadeFrom [][]difference `json:"made_from"` // for each set of files; none: these files
	Accepts  []shape        `json:"accepts"`   // what has the digest
}

// commandLine is the name of the input that is no file.
const commandLine = "command line"

// difference is an input that is another one there than here.
type difference struct {
	Input string `json:"input"`
	There string `json:"there"` // SHA-256 of a file, or the command line
	Here  string `json:"here"`
}

func (d difference) String() string {
	if d.Input == commandLine {
		return fmt.Sprintf("another command line (%q, here %q)", d.There, d.Here)
	}
	return fmt.Sprintf("another %s (SHA-256 %s, here %s)", d.Input, d.There, d.Here)
}

// accepted reports whether reference values accept the digest.
func (e *explanation) accepted() bool {
	for _, c := range e.RefVals {
		if len(c.Accepts) > 0 {
			return true
		}
	}
	return false
}

func (e *explanation) add(a explain.Answer) {
	e.answer, e.Tried = &a, a.Tried
	e.Explanations = append(e.Explanations, a.Explanations...)
	e.NotTried = append(e.NotTried, a.Unusable...)
}

// printCompared writes what is known without a search.
func (e *explanation) printCompared(w io.Writer) {
	if e.SameAs != nil {
		fmt.Fprintf(w, "no difference: %d vCPUs of type %s give this digest\n", e.SameAs.VCPUs, e.SameAs.CPUType)
	}
	for _, c := range e.RefVals {
		for _, other := range c.MadeFrom {
			parts := make([]string, len(other))
			for i, d := range other {
				parts[i] = d.String()
			}
			if len(parts) == 0 {
				parts = []string{"these files"}
			}
			fmt.Fprintf(w, "%s: made from %s\n", c.RefVal, strings.Join(parts, ", "))
		}
		for _, s := range c.Accepts {
			fmt.Fprintf(w, "%s: accepts this digest, of %d vCPUs of type %s\n", c.RefVal, s.VCPUs, s.CPUType)
		}
	}
}

// say prints what was found, but for what printCompared has, and the next step if that is
// nothing.
func (f *explainFlags) say(cmd *cobra.Command, e explanation) error {
	e.Explained = e.SameAs != nil || e.accepted() || len(e.Explanations) > 0
	var err error
	switch {
	case f.asJSON:
		err = cli.PrintJSON(cmd.OutOrStdout(), e)
	case e.answer != nil:
		_, err = io.WriteString(cmd.OutOrStdout(), e.answer.String())
	}
	if err != nil {
		return err
	}
	if e.Explained {
		return nil
	}
	if len(f.refvals) == 0 {
		fmt.Fprintln(cmd.ErrOrStderr(), "rootvouch: hint: --refval says which files the reference values were made from; --other-firmware, --other-kernel, --other-initrd and --other-append name candidates")
	}
	return notExplained{}
}
