package attest

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/rootvouch/rootvouch/attest"
	"github.com/rootvouch/rootvouch/evidence"
	"github.com/rootvouch/rootvouch/internal/cli"
	"github.com/rootvouch/rootvouch/internal/command"
	"github.com/rootvouch/rootvouch/internal/emulated"
	"github.com/rootvouch/rootvouch/refval"
	"github.com/rootvouch/rootvouch/snp"
)

const (
	// maxTargets bounds a file of targets, in bytes.
	maxTargets = 4 << 20

	// askers is how many VMs are asked at the same time.
	askers = 16
)

// target is one VM of a fleet.
type target struct {
	name, address string
	files         []string
	values        []refval.Values // one for each of files
}

// summary is the content of a VM's line.
type summary struct {
	Name     string        `json:"name"`
	Address  string        `json:"address"`
	Result   string        `json:"result"`              // trusted, refused or no-answer
	ReportID *snp.ReportID `json:"report_id,omitempty"` // only of authentic evidence
	Refval   string        `json:"refval,omitempty"`    // the file that trusts it
	Instance string        `json:"instance"`            // checked, not-checked or refused
	Emulated bool          `json:"emulated"`            // as the reference values say
	Error    string        `json:"error,omitempty"`     // why it is not trusted
	Time     *time.Time    `json:"time,omitempty"`      // of the answer
}

// The words of summary.Result.
const (
	trusted  = "trusted"
	refused  = "refused"
	noAnswer = "no-answer"
)

// runTargets asks a fleet, once or again and again.
func (f *attestFlags) runTargets(cmd *cobra.Command) error {
	switch {
	case f.kmsUser != nil && !f.release:
		return command.Usage(errors.New("--kms-user goes with --release"))
	case f.release != (f.kmsSocket != ""):
		return command.Usage(errors.New("want both of --release and --kms-socket, or none"))
	case f.timeout <= 0 || f.interval <= 0:
		return command.Usage(fmt.Errorf("--timeout is %v and --interval %v, want more than 0", f.timeout, f.interval))
	}
	all, err := readTargets(f.targets)
	if err != nil {
		return err
	}
	said := make([]string, len(all)) // the last line of each VM
	for {
		var x attest.Expectation
		if err := f.readCollateral(&x); err != nil { // each round, because a CRL is valid for only some days
			return err
		}
		results := f.askAll(cmd.Context(), all, x)
		if err := cmd.Context().Err(); err != nil {
			return context.Cause(cmd.Context())
		}
		if err := f.tell(cmd, results, said); err != nil {
			return err
		}
		if !f.watch {
			return verdictOf(results)
		}
		select {
		case <-cmd.Context().Done():
			return context.Cause(cmd.Context())
		case <-time.After(f.interval):
		}
	}
}

// readTargets reads a fleet, and all reference values that it names.
func readTargets(path string) ([]target, error) {
	data, err := cli.ReadInput(path, maxTargets)
	if err != nil {
		return nil, err
	}
	known := map[string]refval.Values{} // :: file -> values
	names := map[string]bool{}
	var all []target
	lines := bufio.NewScanner(bytes.NewReader(data))
	for n := 1; lines.Scan(); n++ {
		words := strings.Fields(lines.Text())
		if len(words) == 0 || strings.HasPrefix(words[0], "#") {
			continue
		}
		if len(words) < 3 {
			return nil, cli.Malformed("%s:%d: got %q, want a name, an address and files of reference values", path, n, lines.Text())
		}
		t := target{name: words[0], address: words[1], files: words[2:]}
		if _, _, err := net.SplitHostPort(t.address); err != nil {
			return nil, cli.Malformed("%s:%d: %w", path, n, err)
		}
		if names[t.name] {
			return nil, cli.Malformed("%s:%d: name %q is on two lines", path, n, t.name)
		}
		names[t.name] = true
		for _, file := range t.files {
			v, ok := known[file]
			if !ok {
				if v, _, err = cli.ReadValues(file); err != nil {
					return nil, err
				}
				known[file] = v
			}
			t.values = append(t.values, v)
		}
		all = append(all, t)
	}
	if err := lines.Err(); err != nil {
		return nil, cli.Malformed("%s: %w", path, err)
	}
	if len(all) == 0 {
		return nil, cli.Malformed("%s names no VM", path)
	}
	return all, nil
}

// askAll asks every VM, several at a time. The results are in the order of the targets.
func (f *attestFlags) askAll(ctx context.Context, all []target, x attest.Expectation) []summary {
	results := make([]summary, len(all))
	free := make(chan struct{}, askers)
	var waiting sync.WaitGroup
	for i, t := range all {
		waiting.Go(func() {
			free <- struct{}{}
			defer func() { <-free }()
			results[i] = f.askOne(ctx, t, x)
		})
	}
	waiting.Wait()
	return results
}

func (f *attestFlags) askOne(ctx context.Context, t target, x attest.Expectation) summary {
	s := summary{Name: t.name, Address: t.address, Result: noAnswer, Instance: "not-checked"}
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	nonce, err := evidence.NewNonce(rand.Reader)
	if err != nil {
		s.Error = err.Error()
		return s
	}
	answer, err := attest.Ask(ctx, t.address, nonce)
	if err != nil {
		s.Error = err.Error()
		return s
	}
	x.Now = time.Now()
	s.Time = &x.Now
	at, result := attest.JudgeByOneOf(answer, t.values, x)
	s.Result, s.Emulated = refused, result.Emulated
	if result.Authentic() {
		s.ReportID = &result.Verdict.Report.ReportID
	}
	if f.release && result.Trusted() {
		pinned, _ := t.values[at].Pins.Value()
		launches, err := f.launches(ctx, pinned.DiskUUID)
		if err != nil {
			s.Error = err.Error()
			return s
		}
		s.Instance = "checked"
		if result.CheckInstance(pinned.DiskUUID, launches); !result.Trusted() {
			s.Instance = refused
		}
	}
	if why := result.Why(); why != nil {
		first, _, _ := strings.Cut(why.Error(), "\n")
		s.Error = first
		return s
	}
	s.Result, s.Refval = trusted, t.files[at]
	return s
}

// tell prints the lines that have changed since the last round.
func (f *attestFlags) tell(cmd *cobra.Command, results []summary, said []string) error {
	for i, s := range results {
		line := s.line()
		if said[i] == line {
			continue
		}
		said[i] = line
		if f.asJSON {
			data, err := json.Marshal(s)
			if err != nil {
				return err
			}
			line = string(data)
		}
		if _, err := fmt.Fprintln(cmd.OutOrStdout(), line); err != nil {
			return err
		}
	}
	return nil
}

// line writes the summary in one line.
func (s summary) line() string {
	word := s.Result
	if s.Emulated {
		word += " (" + emulated.Warning + ")"
	}
	text := fmt.Sprintf("%-9s %s %s", word, s.Name, s.Address)
	if s.ReportID != nil {
		text += " launch " + s.ReportID.String()[:16]
	}
	if s.Refval != "" {
		text += " by " + s.Refval
	}
	if s.Instance == "checked" {
		text += ", got the key"
	}
	if s.Error != "" {
		text += ": " + s.Error
	}
	return attest.Printable(text)
}

// verdictOf returns the error of one round.
func verdictOf(results []summary) error {
	count := map[string]int{}
	for _, s := range results {
		count[s.Result]++
	}
	switch {
	case count[refused] > 0:
		return attestError{fmt.Errorf("%d of %d VMs are refused", count[refused], len(results)), exitRefused}
	case count[noAnswer] > 0:
		return attestError{fmt.Errorf("%d of %d VMs gave no answer", count[noAnswer], len(results)), exitNoJudgement}
	}
	return nil
}
