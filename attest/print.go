package attest

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/rootvouch/rootvouch/appraise"
	"github.com/rootvouch/rootvouch/boot/bootlog"
	"github.com/rootvouch/rootvouch/pins"
)

// notConfidential stands wherever the emulated platform shows.
const notConfidential = "emulated: NOT CONFIDENTIAL"

// Print writes what was looked at, one line each, and last, alone on its line,
// "verdict: trusted" or "verdict: refused".
func (r Result) Print(w io.Writer) error {
	p := &printer{w: w}
	if r.Emulated {
		p.line(notConfidential)
	}
	if r.Err != nil {
		p.line("FAILED  form: %v", r.Err)
	} else {
		r.printChecks(p)
	}
	word := "refused"
	if r.Trusted() {
		word = "trusted"
	}
	p.line("verdict: %s", word)
	return p.err
}

func (r Result) printChecks(p *printer) {
	for _, c := range r.Verdict.Checks {
		p.line("%s", c)
	}
	for _, c := range r.Disk {
		p.line("%s", c)
	}
	for _, notes := range [][]string{r.Verdict.Notes, r.Notes} {
		for _, n := range notes {
			p.line("note    %s", n)
		}
	}
	if r.Authentic() {
		r.printBootLog(p)
	}
	switch {
	case r.Instance == nil:
		p.line("instance: not checked")
	case r.Instance.Err != nil:
		p.line("instance: refused: %v", r.Instance.Err)
	default:
		p.line("instance: checked: %s", r.Instance.Got)
	}
	if r.Emulated {
		p.line(notConfidential)
	}
}

func (r Result) printBootLog(p *printer) {
	p.line("boot log: SHA-256 %s, in the evidence; the booted OS's word", r.BootLogDigest)
	p.line("boot log: disk %s, key generation %d from %s, verification %s", r.BootLog.DiskUUID, r.BootLog.KeyGeneration, r.BootLog.KMSSPIFFEID, r.BootLog.Verification)
	for _, s := range r.BootLog.Steps {
		p.line("boot log: %s at %d ms, %d ms", s.Name, s.StartMS, s.DurationMS)
	}
}

// printer writes lines, with nothing in them that a terminal would obey, and keeps
// the first error.
type printer struct {
	w   io.Writer
	err error
}

func (p *printer) line(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintln(p.w, printable(fmt.Sprintf(format, args...)))
	}
}

// MarshalJSON returns everything that Print shows.
func (r Result) MarshalJSON() ([]byte, error) {
	out := struct {
		Trusted       bool              `json:"trusted"`
		Emulated      bool              `json:"emulated"`
		Error         string            `json:"error,omitempty"`
		Verdict       *appraise.Verdict `json:"verdict,omitempty"`
		Disk          []appraise.Check  `json:"disk"`
		Instance      *appraise.Check   `json:"instance,omitempty"` // absent: not checked
		BootLogSHA256 pins.Digest       `json:"boot_log_sha256"`
		BootLog       *bootlog.Log      `json:"boot_log,omitempty"`
		Notes         []string          `json:"notes"`
	}{Trusted: r.Trusted(), Emulated: r.Emulated, Disk: append([]appraise.Check{}, r.Disk...), Instance: r.Instance, BootLogSHA256: r.BootLogDigest, Notes: append([]string{}, r.Notes...)}
	if r.Err != nil {
		out.Error, out.Instance = r.Err.Error(), nil
		return json.Marshal(out)
	}
	out.Verdict = &r.Verdict
	if r.Authentic() {
		out.BootLog = &r.BootLog
	}
	return json.Marshal(out)
}
