package server

import (
	"errors"
	"fmt"
	"strings"
	"text/template"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/rootvouch/rootvouch/appraise"
	"github.com/rootvouch/rootvouch/nodeattest"
	"github.com/rootvouch/rootvouch/snp"
)

// DefaultAgentPath is unique for each launch: REPORT_ID names one run of one
// guest.
const DefaultAgentPath = "/{{ .PluginName }}/{{ .ReportID }}"

// maxAgentPath bounds what a template may grow to, in bytes (SPIFFE-ID, section
// 2.3, bounds the whole ID by 2048).
const maxAgentPath = 1024

// pathData is what a template can use. Every value comes from the report or the
// configuration, in full; byte strings are lower-case hex.
type pathData struct {
	PluginName      string // amd_sev_snp
	TrustDomain     string
	Product         string // Milan, Genoa, Turin
	ReportID        string // of one launch
	Measurement     string
	ChipID          string // zeros where the host masks it
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
	stable      bool // two launches of one VM get one path
}

// parseAgentPath reads a template and tries it, so that one which cannot give an
// agent ID is found when it is configured.
func parseAgentPath(td spiffeid.TrustDomain, text string) (*agentPath, error) {
	if text == "" {
		text = DefaultAgentPath
	}
	t, err := template.New("agent_path_template").Option("missingkey=error").Parse(text)
	if err != nil {
		return nil, err
	}
	p := &agentPath{trustDomain: td, template: t}
	launch := snp.Report{ReportID: snp.ReportID{1}}
	first, err := p.id(appraise.Verdict{Report: &launch, Product: snp.Genoa})
	if err != nil {
		return nil, err
	}
	relaunch := snp.Report{ReportID: snp.ReportID{2}}
	second, err := p.id(appraise.Verdict{Report: &relaunch, Product: snp.Genoa})
	if err != nil {
		return nil, err
	}
	p.stable = first == second
	return p, nil
}

// agentID names the agent of a launch that was judged.
func (c *config) agentID(v appraise.Verdict) (spiffeid.ID, error) { return c.path.id(v) }

func (p *agentPath) id(v appraise.Verdict) (spiffeid.ID, error) {
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
	// As SPIRE's other attestors have it, the slash in front may be left out.
	text := "/" + strings.TrimPrefix(path.String(), "/")
	if !strings.HasPrefix(text, "/"+nodeattest.PluginName+"/") {
		return spiffeid.ID{}, fmt.Errorf("path is %q, want one below /%s/", text, nodeattest.PluginName)
	}
	return spiffeid.FromPath(p.trustDomain, "/spire/agent"+text)
}

// limitedBuilder is a strings.Builder that refuses to grow without end.
type limitedBuilder struct{ strings.Builder }

func (b *limitedBuilder) Write(data []byte) (int, error) {
	if b.Len()+len(data) > maxAgentPath {
		return 0, errors.New("path is too long")
	}
	return b.Builder.Write(data)
}
