package server

import (
	"bytes"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/hashicorp/hcl"
	"github.com/hashicorp/hcl/hcl/printer"
	"google.golang.org/grpc/codes"

	"github.com/rootvouch/rootvouch/snp"
)

// pluginData is what SPIRE hands to a plugin: SPIRE parses server.conf,
// and prints the plugin's part again.
func pluginData(t *testing.T, text string) string {
	t.Helper()
	file, err := hcl.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := printer.DefaultConfig.Fprint(&out, file.Node); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// Reference values in server.conf are taken as those of a file are.
func TestInlineRefval(t *testing.T) {
	f := load(t)
	v := f.sp.Values(wanted)
	v.Measurements[0].Provenance.CommandLine = `console=ttyS0 a="b c" d=\e f<g`
	encoded, err := v.Encode()
	if err != nil {
		t.Fatal(err)
	}
	compact := new(bytes.Buffer)
	if err := json.Compact(compact, encoded); err != nil {
		t.Fatal(err)
	}
	for name, inline := range map[string]string{
		"string":           fmt.Sprintf("refval = %q", compact),
		"heredoc":          fmt.Sprintf("refval = <<END\n%sEND\n", encoded),
		"indented heredoc": fmt.Sprintf("    refval = <<-END\n%s    END\n", bytes.ReplaceAll(encoded, []byte("\n"), []byte("\n    "))),
	} {
		t.Run(name, func(t *testing.T) {
			text := pluginData(t, fmt.Sprintf("collateral_dir = %q\n%s", f.sp.Collateral, inline))
			if _, err := f.configure(text); err != nil {
				t.Fatalf("%v\n%s", err, text)
			}
			if _, err := f.attest(f.genuine(f.launch)); err != nil {
				t.Error(err)
			}
			other := f.launch
			other.Report.Measurement[0]++
			f.wantRefusal(f.genuine(other), codes.PermissionDenied, "measurement")
		})
	}
	// With files beside it, either accepts.
	inline, err := f.sp.Values(snp.Measurement{8}).Encode()
	if err != nil {
		t.Fatal(err)
	}
	f.mustConfigure(fmt.Sprintf("refval = <<END\n%sEND\n", inline))
	for _, m := range []snp.Measurement{wanted, {8}} {
		if _, err := f.attest(f.genuine(f.sp.Launch(m, once))); err != nil {
			t.Errorf("measurement %s: %v", m, err)
		}
	}
}
