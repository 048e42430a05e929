package attest

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/rootvouch/rootvouch/appraise"
	"github.com/rootvouch/rootvouch/boot/bootlog"
	"github.com/rootvouch/rootvouch/internal/emulated"
	"github.com/rootvouch/rootvouch/pins"
)

// notConfidential is the warning beside each result of the emulated platform.
const notConfidential = emulated.Warning

// Print writes which VM answered, the result of each group of checks with the
// failed checks, and the notes. With verbose it writes every check, and the boot
// log. The last line is only "verdict: trusted" or "verdict: refused".
func (r Result) Print(w io.Writer, verbose bool) error {
	p := &printer{w: w}
	if r.Emulated {
		p.line(notConfidential)
	}
	switch {
	case r.Err != nil:
		p.line("FAILED  form: %v", r.Err)
	case verbose:
		for _, c := range r.checks() {
			p.line("%s", c)
		}
		r.printNotes(p)
		if r.Authentic() {
			r.printBootLog(p)
		}
		r.printInstance(p)
	default:
		r.printVM(p)
		for _, g := range appraise.Groups() {
			r.printGroup(p, g)
		}
		r.printNotes(p)
		r.printInstance(p)
	}
	p.line("verdict: %s", r.word())
	return p.err
}

// word returns the verdict in one or two words.
func (r Result) word() string {
	switch {
	case !r.Trusted():
		return "refused"
	case r.Kept != nil:
		return "trusted as of " + r.Kept.UTC().Format(time.RFC3339)
	}
	return "trusted"
}

// checks returns the checks of the verdict and of the disk.
func (r Result) checks() []appraise.Check { return append(slices.Clone(r.Verdict.Checks), r.Disk...) }

// printVM prints which VM answered, if the evidence is authentic.
func (r Result) printVM(p *printer) {
	if !r.Authentic() {
		p.line("VM:        unknown: the evidence is %s", r.Verdict.Outcome())
		return
	}
	report := r.Verdict.Report
	p.line("VM:        measurement %s, VMPL %d", short(report.Measurement), report.VMPL)
	p.line("           launch %s on a %s, chip %s", short(report.ReportID), r.Verdict.Product, short(report.ChipID))
	p.line("           disk %s, key generation %d", r.BootLog.DiskUUID, r.BootLog.KeyGeneration)
}

// short returns the beginning of a long number.
func short(number fmt.Stringer) string {
	const digits = 16
	s := number.String()
	if len(s) <= digits {
		return s
	}
	return s[:digits] + "…"
}

// printGroup writes one line for a group, and one line for each failed check.
func (r Result) printGroup(p *printer, g appraise.Group) {
	var names []string
	var failed []appraise.Check
	for _, c := range r.checks() {
		if c.Group != g {
			continue
		}
		if names = append(names, c.Name); !c.OK {
			failed = append(failed, c)
		}
	}
	label := fmt.Sprintf("%-10s", string(g)+":")
	switch {
	case len(names) == 0:
		p.line("%s not looked at", label)
	case len(failed) == 0:
		p.line("%s ok, %s", label, enumerate(names))
	default:
		p.line("%s FAILED, %d of %d checks", label, len(failed), len(names))
		for _, c := range failed {
			p.line("%s", c)
		}
	}
}

// enumerate lists as many names as fit behind a label on a line of 80 columns.
func enumerate(names []string) string {
	const room = 62
	text := names[0]
	for i, name := range names[1:] {
		if left := len(names) - 1 - i; len(text)+len(name)+len(", and 10 more") > room {
			return fmt.Sprintf("%s, and %d more", text, left)
		}
		text += ", " + name
	}
	return text
}

func (r Result) printNotes(p *printer) {
	for _, notes := range [][]string{r.Verdict.Notes, r.Notes} {
		for _, n := range notes {
			p.line("note    %s", n)
		}
	}
}

func (r Result) printInstance(p *printer) {
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

// printer writes lines without terminal control sequences, and keeps the first
// error.
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
		Trusted       bool              `json:"trusted"` // always false for stored evidence
		Word          string            `json:"result"`
		AsOf          *time.Time        `json:"as_of,omitempty"` // only for stored evidence
		Emulated      bool              `json:"emulated"`
		Error         string            `json:"error,omitempty"`
		Verdict       *appraise.Verdict `json:"verdict,omitempty"`
		Disk          []appraise.Check  `json:"disk"`
		Instance      *appraise.Check   `json:"instance,omitempty"` // absent: not checked
		BootLogSHA256 pins.Digest       `json:"boot_log_sha256"`
		BootLog       *bootlog.Log      `json:"boot_log,omitempty"`
		Notes         []string          `json:"notes"`
	}{Trusted: r.Trusted() && r.Kept == nil, Word: r.word(), AsOf: r.Kept, Emulated: r.Emulated, Disk: append([]appraise.Check{}, r.Disk...), Instance: r.Instance, BootLogSHA256: r.BootLogDigest, Notes: append([]string{}, r.Notes...)}
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
