package server

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/rootvouch/rootvouch/appraise"
	"github.com/rootvouch/rootvouch/internal/bounded"
	"github.com/rootvouch/rootvouch/refval"
	"github.com/rootvouch/rootvouch/snp"
	"github.com/rootvouch/rootvouch/snp/kds"
)

// document is encoded reference values, and the name of their place.
type document struct {
	name string
	data []byte
}

// source reads the documents of one place.
type source func() ([]document, error)

func fileSource(path string) source {
	return func() ([]document, error) {
		data, err := bounded.ReadFile(path, refval.MaxSize)
		return []document{{path, data}}, err
	}
}

func inlineSource(name, text string) source {
	return func() ([]document, error) { return []document{{name, []byte(text)}}, nil }
}

// dirSource reads the files of a directory whose names end in .json, sorted by name. It skips
// names that begin with a dot, because such files are still being written.
func dirSource(dir string) source {
	return func() ([]document, error) {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return nil, err
		}
		var all []document
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), ".") || filepath.Ext(e.Name()) != ".json" {
				continue
			}
			path := filepath.Join(dir, e.Name())
			data, err := bounded.ReadFile(path, refval.MaxSize)
			if errors.Is(err, fs.ErrNotExist) {
				continue // removed since the directory was read
			}
			if err != nil {
				return nil, err
			}
			if all = append(all, document{path, data}); len(all) > maxRefvalDir {
				return nil, fmt.Errorf("%s has more than %d files of reference values", dir, maxRefvalDir)
			}
		}
		return all, nil
	}
}

// namedValues are reference values with the name of their source.
type namedValues struct {
	file   string
	values refval.Values
}

// policy has the inputs of a judgement. For each attestation it checks the files, and decodes
// them if they have changed. So reference values that an operator removes stop counting at
// once. If a file cannot be read or decoded, policy refuses all evidence, because the file's
// meaning is unknown.
type policy struct {
	refvals    []source
	collateral *kds.Dir
	revocation appraise.RevocationMode
	check      func([]namedValues) error // a further check of all values together

	mu     sync.Mutex
	digest [sha256.Size]byte // of the files from which values come
	values []namedValues     // nil: none yet
}

func newPolicy(refvals []source, collateral string, revocation appraise.RevocationMode, check func([]namedValues) error) *policy {
	return &policy{refvals: refvals, collateral: kds.NewDir(collateral), revocation: revocation, check: check}
}

// load returns the current contents of the files. The caller must not change them.
func (p *policy) load() ([]namedValues, appraise.Collateral, error) {
	values, err := p.loadValues()
	if err != nil {
		return nil, appraise.Collateral{}, fmt.Errorf("reading reference values: %w", err)
	}
	certificates, crls, err := p.collateral.Load()
	if err != nil {
		return nil, appraise.Collateral{}, err
	}
	// AMD's own certificates are used for a directory that has none of them. They vouch for
	// nothing unless the reference values name AMD.
	all := append(slices.Clone(certificates), kds.AMDCertificates()...)
	return values, appraise.Collateral{Certificates: all, CRLs: crls}, nil
}

func (p *policy) loadValues() ([]namedValues, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var documents []document
	h := sha256.New()
	for _, read := range p.refvals {
		more, err := read()
		if err != nil {
			return nil, err
		}
		for _, d := range more {
			fmt.Fprintf(h, "%d:%s%d:", len(d.name), d.name, len(d.data))
			h.Write(d.data)
		}
		documents = append(documents, more...)
	}
	digest := [sha256.Size]byte(h.Sum(nil))
	if p.values != nil && digest == p.digest {
		return p.values, nil
	}
	p.values = nil
	values := []namedValues{}
	for _, d := range documents {
		v, err := refval.Decode(d.data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", d.name, err)
		}
		values = append(values, namedValues{d.name, v})
	}
	if err := p.check(values); err != nil {
		return nil, err
	}
	p.digest, p.values = digest, values
	return values, nil
}

// judgement is one file's verdict on evidence.
type judgement struct {
	file    string
	values  refval.Values
	verdict appraise.Verdict
}

// judgements are the verdicts on one piece of evidence: either one that is trusted, or one from
// each file, none of which is trusted.
type judgements []judgement

func (j judgements) trusted() bool { return len(j) == 1 && j[0].verdict.Trusted() }

// failed names the checks that failed in every verdict. If there are none, it names all that
// failed in some verdict.
func (j judgements) failed() []string {
	count := map[string]int{}
	var names []string
	for _, one := range j {
		for _, c := range one.verdict.Checks {
			if !c.OK {
				if count[c.Name]++; count[c.Name] == 1 {
					names = append(names, c.Name)
				}
			}
		}
	}
	everywhere := slices.DeleteFunc(slices.Clone(names), func(name string) bool { return count[name] < len(j) })
	if len(everywhere) > 0 {
		return everywhere
	}
	return names
}

// judge appraises evidence with each file until one trusts it. The caller fills the request
// except for what the policy holds. An error says that the evidence could not be judged.
func (p *policy) judge(q appraise.Request, by func(appraise.Request) appraise.Verdict) (judgements, error) {
	all, collateral, err := p.load()
	if err != nil {
		return nil, err
	}
	q.Collateral, q.Revocation = collateral, p.revocation
	var refused judgements
	for _, v := range candidates(all, q.Evidence.Claims().Measurement) {
		q.Values = v.values
		j := judgement{v.file, v.values, by(q)}
		if j.verdict.Trusted() {
			return judgements{j}, nil
		}
		refused = append(refused, j)
	}
	if len(refused) == 0 {
		return nil, errors.New("no reference values")
	}
	return refused, nil
}

// candidates returns the values worth an appraisal: those that accept the measurement of the
// evidence. The others would refuse it, each after verifying the same signatures. If no values
// accept the measurement, it returns some that show why the evidence is refused.
func candidates(all []namedValues, m snp.Measurement) []namedValues {
	var fit []namedValues
	for _, v := range all {
		if slices.ContainsFunc(v.values.Measurements, func(have refval.Measurement) bool { return have.Digest == m }) {
			fit = append(fit, v)
		}
	}
	if len(fit) == 0 {
		fit = all
	}
	return fit[:min(len(fit), maxRefvalFiles)]
}
