package server

import (
	"errors"
	"fmt"
	"strings"
	"text/template"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/rootvouch/rootvouch/appraise"
	"github.com/rootvouch/rootvouch/refval"
	"github.com/rootvouch/rootvouch/snp"
	"github.com/rootvouch/rootvouch/spire/nodeattest"
)

// DefaultAgentPath is unique for each launch, because REPORT_ID names one launch of one guest.
const DefaultAgentPath = "/{{ .PluginName }}/{{ .ReportID }}"

// emulatedSegment is the path segment above agents whose root of trust is emulated.
const emulatedSegment = "emulated"

// maxAgentPath bounds the expansion of a template in bytes (SPIFFE-ID, section 2.3, bounds the
// whole ID by 2048).
const maxAgentPath = 1024

// pathData are the variables of a template. Every value comes from the report or the
// configuration, in full; byte strings are lower-case hex.
type pathData struct {
	PluginName      string // amd_sev_snp
	TrustDomain     string
	Product         string // Milan, Genoa, Turin
	ReportID        string // names one launch
	Measurement     string
	ChipID          string // zeros if the host masks it
	FamilyID        string
	ImageID         string
	GuestSVN        uint32
	HostData        string
	IDKeyDigest     string
	AuthorKeyDigest string
}

// agentPath is a template that has been tried.
type agentPath struct {
	trustDomain spiffeid.TrustDomain
	template    *template.Template
	perLaunch   bool // the path contains the whole REPORT_ID, so no two launches share a path
}

// tried is the REPORT_ID for the test of a template. No template contains it by accident.
func tried() snp.ReportID {
	return snp.ReportID{0x70, 0x61, 0x74, 0x68, 0xa5, 0x5a, 0xc3, 0x3c, 31: 0x99}
}

// parseAgentPath parses and tests a template, so that a template that cannot give an agent ID
// fails at configuration.
func parseAgentPath(td spiffeid.TrustDomain, text string) (*agentPath, error) {
	if text == "" {
		text = DefaultAgentPath
	}
	t, err := template.New("agent_path_template").Option("missingkey=error").Parse(text)
	if err != nil {
		return nil, err
	}
	p := &agentPath{trustDomain: td, template: t}
	id, err := p.try(snp.Measurement{}, refval.AMD())
	if err != nil {
		return nil, err
	}
	p.perLaunch = namesLaunch(id)
	return p, nil
}

// try returns the ID for a launch that has only the given measurement and root of trust.
func (p *agentPath) try(m snp.Measurement, root refval.RootOfTrust) (spiffeid.ID, error) {
	return p.id(appraise.Verdict{Report: &snp.Report{ReportID: tried(), Measurement: m}, Product: snp.Genoa}, root)
}

func namesLaunch(id spiffeid.ID) bool { return strings.Contains(id.Path(), tried().String()) }

// check refuses reference values that the template would mix up. If IDs do not name their
// launch, each accepted measurement must have an ID of its own. Otherwise a VM that one file
// accepts could become the agent of another file. IDs of different roots of trust always
// differ: see id.
func (p *agentPath) check(all []namedValues) error {
	type guest struct {
		measurement snp.Measurement
		root        refval.RootOfTrust
		file        string
	}
	seen := map[spiffeid.ID]guest{}
	for _, v := range all {
		for _, m := range v.values.Measurements {
			g := guest{m.Digest, v.values.RootOfTrust, v.file}
			id, err := p.try(g.measurement, g.root)
			if err != nil {
				return fmt.Errorf("agent_path_template: %s: measurement %s: %w", g.file, g.measurement, err)
			}
			if namesLaunch(id) {
				continue
			}
			if other, taken := seen[id]; taken && (other.measurement != g.measurement || other.root != g.root) {
				return fmt.Errorf("agent_path_template gives measurement %s of %s and measurement %s of %s the same agent ID, %s: want {{ .ReportID }} or {{ .Measurement }} in it",
					other.measurement, other.file, g.measurement, g.file, id)
			}
			seen[id] = g
		}
	}
	return nil
}

// id names the agent of a judged launch. root is the root of trust that vouches for it.
//
// The holder of an emulated ARK chooses everything in a report, including REPORT_ID. So the IDs
// of its agents are below emulated/ARK, where no other agents are.
func (p *agentPath) id(v appraise.Verdict, root refval.RootOfTrust) (spiffeid.ID, error) {
	r := v.Report
	var path limitedBuilder
	if err := p.template.Execute(&path, pathData{
		PluginName:      nodeattest.PluginName,
		TrustDomain:     p.trustDomain.Name(),
		Product:         string(v.Product),
		ReportID:        r.ReportID.String(),
		Measurement:     r.Measurement.String(),
		ChipID:          r.ChipID.String(),
		FamilyID:        r.FamilyID.String(),
		ImageID:         r.ImageID.String(),
		GuestSVN:        r.GuestSVN,
		HostData:        r.HostData.String(),
		IDKeyDigest:     r.IDKeyDigest.String(),
		AuthorKeyDigest: r.AuthorKeyDigest.String(),
	}); err != nil {
		return spiffeid.ID{}, err
	}
	// The leading slash is optional, as in SPIRE's other attestors.
	text := "/" + strings.TrimPrefix(path.String(), "/")
	rest, below := strings.CutPrefix(text, "/"+nodeattest.PluginName+"/")
	switch {
	case !below:
		return spiffeid.ID{}, fmt.Errorf("path is %q, want one below /%s/", text, nodeattest.PluginName)
	case rest == emulatedSegment || strings.HasPrefix(rest, emulatedSegment+"/"):
		return spiffeid.ID{}, fmt.Errorf("path is %q, want one that is not below /%s/%s, which is reserved for emulated roots of trust", text, nodeattest.PluginName, emulatedSegment)
	}
	prefix := "/spire/agent/" + nodeattest.PluginName + "/"
	if ark, ok := root.Emulated(); ok {
		prefix += emulatedSegment + "/" + ark.String() + "/"
	} else if !root.IsAMD() {
		return spiffeid.ID{}, errors.New("root of trust is missing")
	}
	return spiffeid.FromPath(p.trustDomain, prefix+rest)
}

// limitedBuilder is a strings.Builder with a size limit.
type limitedBuilder struct{ strings.Builder }

func (b *limitedBuilder) Write(data []byte) (int, error) {
	if b.Len()+len(data) > maxAgentPath {
		return 0, errors.New("path is too long")
	}
	return b.Builder.Write(data)
}
