package vm

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/rootvouch/rootvouch/internal/cli"
	"github.com/rootvouch/rootvouch/platform"
	"github.com/rootvouch/rootvouch/snp"
)

// ending is what "vm run --json" prints when a VM has ended.
type ending struct {
	Platform     platform.Kind    `json:"platform"`
	LaunchDigest snp.Measurement  `json:"launch_digest"`
	ReportID     *snp.ReportID    `json:"report_id,omitempty"` // emulated: the software AMD-SP says it
	Forwards     []string         `json:"forwards"`
	KernelAfter  *float64         `json:"kernel_started_after,omitempty"` // seconds
	EndedAfter   float64          `json:"ended_after"`                    // seconds
	Outcome      platform.Outcome `json:"outcome"`
	Detail       string           `json:"detail,omitempty"`
	QEMUStatus   int              `json:"qemu_exit_status"` // -1 when a signal ended it
	LastLines    []string         `json:"last_lines"`       // of the console, without control characters
}

func newEnding(g platform.Guest, vm *platform.VM) *ending {
	e := &ending{Platform: g.Kind, LaunchDigest: vm.Measurement(), Forwards: []string{}, LastLines: []string{}}
	if id, ok := vm.ReportID(); ok {
		e.ReportID = &id
	}
	for _, forward := range vm.Forwards() {
		e.Forwards = append(e.Forwards, forward.String())
	}
	return e
}

// announce says on standard error what is known when the VM starts.
func (e *ending) announce(cmd *cobra.Command) {
	cli.Say(cmd, "launch digest: %v", e.LaunchDigest)
	if e.ReportID != nil {
		cli.Say(cmd, "report ID: %v", *e.ReportID)
	}
	for _, forward := range e.Forwards {
		cli.Say(cmd, "forward: %s", forward)
	}
}

func (e *ending) started(after time.Duration) {
	seconds := after.Seconds()
	e.KernelAfter = &seconds
}

func (e *ending) end(r platform.Result, after time.Duration) {
	e.Outcome, e.Detail, e.QEMUStatus, e.EndedAfter = r.Outcome, r.Detail, r.ExitCode, after.Seconds()
	e.LastLines = append(e.LastLines, r.LastLines...)
}
