package server

import (
	"errors"
	"fmt"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	configv1 "github.com/spiffe/spire-plugin-sdk/proto/spire/service/common/config/v1"

	"github.com/rootvouch/rootvouch/appraise"
	"github.com/rootvouch/rootvouch/evidence/kept"
	"github.com/rootvouch/rootvouch/internal/emulated"
	"github.com/rootvouch/rootvouch/snp"
	"github.com/rootvouch/rootvouch/spire/nodeattest"
)

const (
	// maxRefvalFiles bounds refval_files, and so the number of appraisals of one piece of
	// evidence.
	maxRefvalFiles = 64

	// maxRefvalDir bounds the number of files in refval_dir, which are read for each
	// attestation.
	maxRefvalDir = 1024
)

// rawConfig is the plugin_data in server.conf.
type rawConfig struct {
	// RefvalFiles are files of reference values. Evidence is accepted if one of them, or
	// Refval, accepts it. A changed file takes effect at the next attestation.
	RefvalFiles []string `hcl:"refval_files"`
	// RefvalDir is a directory of such files, each with a name that ends in .json. A file that
	// is added, changed or removed takes effect at the next attestation. The directory may be
	// empty: then it accepts no evidence.
	RefvalDir string `hcl:"refval_dir"`
	// Refval is the content of such a file. At least one of Refval, RefvalDir and RefvalFiles
	// is required.
	Refval *string `hcl:"refval"`
	// CollateralDir is a directory of certificates and CRLs, as in kds.LoadDir. Required:
	// without a CRL no evidence is accepted, unless Revocation allows it.
	CollateralDir string `hcl:"collateral_dir"`
	// EvidenceDir is a directory for evidence that lacks its certificate. By default such
	// evidence is not kept.
	EvidenceDir string `hcl:"evidence_dir"`
	// Revocation is "required", which is the default, or "accept-unknown".
	Revocation string `hcl:"revocation"`
	// AgentPathTemplate is the template of the agent's path below /spire/agent, as in SPIRE's
	// own attestors. The default is DefaultAgentPath.
	AgentPathTemplate string `hcl:"agent_path_template"`
	// Selectors are the names of the selectors that agents get. The default is all. SPIRE
	// stores each selector in its database, one by one, so a short list makes an attestation
	// several milliseconds faster.
	Selectors []string `hcl:"selectors"`
}

// config is a checked rawConfig.
type config struct {
	trustDomain spiffeid.TrustDomain
	path        *agentPath
	policy      *policy
	selectors   []string // names; none: all
	kept        *kept.Dir
	notes       []string // what an operator should know about a valid configuration
}

// build is the only way from text to a configuration, for both Configure and Validate. It reads
// every file that the text names.
func build(core *configv1.CoreConfiguration, text string) (*config, error) {
	var raw rawConfig
	if err := nodeattest.DecodeConfig(text, &raw, "refval_files", "refval_dir", "refval", "collateral_dir", "evidence_dir", "revocation", "agent_path_template", "selectors"); err != nil {
		return nil, err
	}
	c := &config{}
	var err error
	if c.trustDomain, err = spiffeid.TrustDomainFromString(core.GetTrustDomain()); err != nil {
		return nil, fmt.Errorf("reading the trust domain of the server: %w", err)
	}
	if c.path, err = parseAgentPath(c.trustDomain, raw.AgentPathTemplate); err != nil {
		return nil, fmt.Errorf("reading agent_path_template: %w", err)
	}
	if err := checkSelectorNames(raw.Selectors); err != nil {
		return nil, err
	}
	c.selectors = raw.Selectors
	revocation, err := revocationMode(raw.Revocation)
	if err != nil {
		return nil, err
	}
	switch n := len(raw.RefvalFiles); {
	case n > maxRefvalFiles:
		return nil, fmt.Errorf("refval_files has %d files, want at most %d", n, maxRefvalFiles)
	case n == 0 && raw.Refval == nil && raw.RefvalDir == "":
		return nil, errors.New("got no reference values, want refval_files, refval_dir or refval")
	case raw.CollateralDir == "":
		return nil, errors.New("collateral_dir is missing")
	}
	if c.kept, err = kept.Open(raw.EvidenceDir); err != nil {
		return nil, fmt.Errorf("evidence_dir: %w", err)
	}
	c.policy = newPolicy(raw.sources(), raw.CollateralDir, revocation, c.path.check)
	all, collateral, err := c.policy.load()
	if err != nil {
		return nil, err
	}
	c.notes = c.remarks(all, revocation)
	if len(collateral.CRLs) == 0 && revocation == appraise.RequireRevocation {
		c.notes = append(c.notes, raw.CollateralDir+" has no CRL: until it has a fresh one no evidence is accepted")
	}
	return c, nil
}

// sources are the places of reference values, in the order in which they are asked.
func (raw rawConfig) sources() []source {
	var all []source
	if raw.Refval != nil {
		all = append(all, inlineSource("refval of plugin_data", *raw.Refval))
	}
	for _, path := range raw.RefvalFiles {
		all = append(all, fileSource(path))
	}
	if raw.RefvalDir != "" {
		all = append(all, dirSource(raw.RefvalDir))
	}
	return all
}

func revocationMode(text string) (appraise.RevocationMode, error) {
	switch text {
	case "", "required":
		return appraise.RequireRevocation, nil
	case "accept-unknown":
		return appraise.AcceptUnknownRevocation, nil
	}
	return 0, fmt.Errorf("revocation is %q, want required or accept-unknown", text)
}

// remarks lists settings that are valid but worth a second look.
func (c *config) remarks(all []namedValues, revocation appraise.RevocationMode) []string {
	var notes []string
	if !c.path.perLaunch {
		notes = append(notes, "agent_path_template does not contain the whole REPORT_ID: if launches share an agent ID, each makes the agent of the one before inactive")
	}
	if revocation == appraise.AcceptUnknownRevocation {
		notes = append(notes, "revocation is accept-unknown: a certificate that AMD has revoked may be accepted")
	}
	for _, v := range all {
		if ark, ok := v.values.RootOfTrust.Emulated(); ok {
			notes = append(notes, fmt.Sprintf("%s accepts an emulated root of trust, %s. Emulated: %s", v.file, ark, emulated.NotConfidential))
		}
		if _, ok := v.values.Accepts(snp.Milan); ok {
			notes = append(notes, fmt.Sprintf("%s accepts Milan, whose keys software on the host can extract (arXiv 2605.12990)", v.file))
		}
	}
	return notes
}
