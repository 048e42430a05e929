package server

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/grpc/codes"

	"github.com/rootvouch/rootvouch/appraise"
	"github.com/rootvouch/rootvouch/evidence"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/refval"
	"github.com/rootvouch/rootvouch/snp"
	"github.com/rootvouch/rootvouch/test/snpdevtest"
)

// agentID is the ID that the fixture's chip, which is emulated, gives a path.
func (f *fixture) agentID(rest string) string {
	return "spiffe://example.org/spire/agent/amd_sev_snp/emulated/" + f.sp.Chain.ARKDigest().String() + "/" + rest
}

// rootValues accept measurements for which a root vouches.
func rootValues(file string, root refval.RootOfTrust, digests ...snp.Measurement) namedValues {
	v := namedValues{file: file, values: refval.Values{RootOfTrust: root}}
	for _, d := range digests {
		v.values.Measurements = append(v.values.Measurements, refval.Measurement{Digest: d, HostCode: refval.HostCodeNone, Kernel: refval.KernelMeasured, Provenance: refval.Provenance{KernelSHA256: [32]byte{1}}, Gate: "9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a"})
	}
	return v
}

// Real agents and those of each emulated root have IDs of their own, whatever the
// template says and the holder of an emulated ARK writes into its reports.
func TestAgentIDsOfRoots(t *testing.T) {
	td := spiffeid.RequireTrustDomainFromString("example.org")
	launch := appraise.Verdict{Report: &snp.Report{ReportID: once, Measurement: wanted}, Product: snp.Genoa}
	ark := pins.Digest{1}
	prefix := "spiffe://example.org/spire/agent/amd_sev_snp/"
	for _, c := range []struct {
		template string
		root     refval.RootOfTrust
		want     string
	}{
		{"", refval.AMD(), prefix + once.String()},
		{"", refval.EmulatedARK(ark), prefix + "emulated/" + ark.String() + "/" + once.String()},
		{"{{ .PluginName }}/vm1", refval.AMD(), prefix + "vm1"},
		{"{{ .PluginName }}/vm1", refval.EmulatedARK(ark), prefix + "emulated/" + ark.String() + "/vm1"},
		{"{{ .PluginName }}/vm1", refval.RootOfTrust{}, ""},
		{`/{{ .PluginName }}/{{ if eq .GuestSVN 0 }}emulated{{ end }}/x`, refval.AMD(), ""},
	} {
		p, err := parseAgentPath(td, c.template)
		var id spiffeid.ID
		if err == nil {
			id, err = p.id(launch, c.root)
		}
		if id.String() != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%q, %v: got %q, %v, want %q", c.template, c.root, id, err, c.want)
		}
	}
}

// Who holds the ARK of a development platform picks REPORT_ID, and gets no
// production agent's ID by that.
func TestEmulatedTakesNoAgentID(t *testing.T) {
	f := load(t)
	rogue := snpdevtest.New(t, time.Now())
	data, err := os.ReadFile(filepath.Join(rogue.Collateral, "ark.crl"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(f.sp.Collateral, "rogue.crl"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	second := snpdevtest.WriteValues(t, rogue.Values(wanted))
	for _, template := range []string{DefaultAgentPath, "/{{ .PluginName }}/vm1"} {
		if _, err := f.configure(fmt.Sprintf("refval_files = [%q, %q]\ncollateral_dir = %q\nagent_path_template = %q",
			f.refval, second, f.sp.Collateral, template)); err != nil {
			t.Fatal(err)
		}
		first, err := f.attest(f.genuine(f.launch))
		if err != nil {
			t.Fatal(err)
		}
		launch := rogue.Launch(wanted, once)
		got, err := f.attest(func(n evidence.Nonce) []byte {
			return f.encode(evidence.Evidence{Report: launch.Sign(evidence.NodeAttestation(n)), Certificates: rogue.Chain.Certificates()})
		})
		if err != nil {
			t.Fatal(err)
		}
		if got.SpiffeId == first.SpiffeId {
			t.Errorf("%s: both roots have an agent %s", template, got.SpiffeId)
		}
	}
}

// Two measurements have one agent ID only if it names the launch.
func TestTemplateKeepsMeasurementsApart(t *testing.T) {
	a, b := snp.Measurement{0xa}, snp.Measurement{0xb}
	amd, ark := refval.AMD(), refval.EmulatedARK(pins.Digest{1})
	for _, c := range []struct {
		template string
		all      []namedValues
		ok       bool
	}{
		{"vm1", []namedValues{rootValues("f", amd, a)}, true},
		{"vm1", []namedValues{rootValues("f", amd, a), rootValues("g", amd, a)}, true},
		{"vm1", []namedValues{rootValues("f", amd, a), rootValues("g", ark, b)}, true},
		{"vm1", []namedValues{rootValues("f", amd, a, b)}, false},
		{"vm1", []namedValues{rootValues("f", amd, a), rootValues("g", amd, b)}, false},
		{"vm1", []namedValues{rootValues("f", ark, a), rootValues("g", ark, b)}, false},
		{"{{ .HostData }}", []namedValues{rootValues("f", amd, a, b)}, false},
		{"{{ slice .ReportID 0 20 }}", []namedValues{rootValues("f", amd, a, b)}, false},
		{"{{ slice .Measurement 2 20 }}", []namedValues{rootValues("f", amd, a, b)}, false},
		{"{{ .Measurement }}", []namedValues{rootValues("f", amd, a, b)}, true},
		{"{{ .ReportID }}", []namedValues{rootValues("f", amd, a, b)}, true},
		{"{{ .ReportID }}/x", []namedValues{rootValues("f", amd, a, b), rootValues("g", ark, a)}, true},
	} {
		p, err := parseAgentPath(spiffeid.RequireTrustDomainFromString("example.org"), "/{{ .PluginName }}/"+c.template)
		if err != nil {
			t.Fatal(err)
		}
		if err := p.check(c.all); (err == nil) != c.ok || err != nil && !strings.Contains(err.Error(), "the same agent ID") {
			t.Errorf("%s: got error %v, want none: %v", c.template, err, c.ok)
		}
	}
}

// A file that grows a second measurement under a stable template refuses
// everybody, as one that cannot be read does.
func TestStableTemplateAfterReload(t *testing.T) {
	f := load(t)
	f.mustConfigure(`agent_path_template = "/{{ .PluginName }}/vm1"`)
	if _, err := f.attest(f.genuine(f.launch)); err != nil {
		t.Fatal(err)
	}
	snpdevtest.RewriteValues(t, f.refval, f.sp.Values(wanted, snp.Measurement{8}))
	f.wantRefusal(f.genuine(f.launch), codes.Internal, "cannot be judged")
	if _, err := f.configure(f.data(`agent_path_template = "/{{ .PluginName }}/vm1"`)); err == nil || !strings.Contains(err.Error(), "the same agent ID") {
		t.Errorf("got error %v", err)
	}
}
