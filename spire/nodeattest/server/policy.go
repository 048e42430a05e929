package server

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/rootvouch/rootvouch/appraise"
	"github.com/rootvouch/rootvouch/internal/bounded"
	"github.com/rootvouch/rootvouch/refval"
	"github.com/rootvouch/rootvouch/snp/kds"
)

// source is where encoded reference values come from.
type source struct {
	name string
	read func() ([]byte, error)
}

func fileSource(path string) source {
	return source{path, func() ([]byte, error) { return bounded.ReadFile(path, refval.MaxSize) }}
}

func inlineSource(name, text string) source {
	return source{name, func() ([]byte, error) { return []byte(text), nil }}
}

// namedValues are reference values with the name of their source.
type namedValues struct {
	file   string
	values refval.Values
}

// policy is what evidence is judged by. The files are looked at for each
// attestation, and decoded when they have changed: a value that an operator takes
// back counts at once. A file that cannot be read or decoded refuses everybody,
// since nobody knows what it was meant to say.
type policy struct {
	refvals    []source
	collateral *kds.Dir
	revocation appraise.RevocationMode
	check      func([]namedValues) error // what else is asked of all values together

	mu     sync.Mutex
	digest [sha256.Size]byte // of the files that values come from
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
	// AMD's own stand for a directory that has none of them. They vouch for
	// nothing unless the reference values name AMD.
	all := append(slices.Clone(certificates), kds.AMDCertificates()...)
	return values, appraise.Collateral{Certificates: all, CRLs: crls}, nil
}

func (p *policy) loadValues() ([]namedValues, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var contents [][]byte
	h := sha256.New()
	for _, from := range p.refvals {
		data, err := from.read()
		if err != nil {
			return nil, err
		}
		contents = append(contents, data)
		fmt.Fprintf(h, "%d:", len(data))
		h.Write(data)
	}
	digest := [sha256.Size]byte(h.Sum(nil))
	if p.values != nil && digest == p.digest {
		return p.values, nil
	}
	p.values = nil
	var values []namedValues
	for i, from := range p.refvals {
		v, err := refval.Decode(contents[i])
		if err != nil {
			return nil, fmt.Errorf("%s: %w", from.name, err)
		}
		values = append(values, namedValues{from.name, v})
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

// judgements are the verdicts on one piece of evidence: one that is trusted, or
// one from each file, none of which is.
type judgements []judgement

func (j judgements) trusted() bool { return len(j) == 1 && j[0].verdict.Trusted() }

// failed names the checks that failed everywhere, or, if none did, all that failed
// somewhere.
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

// judge has evidence appraised by each file until one trusts it. The request needs
// nothing that the policy holds. An error says that it could not be judged at all.
func (p *policy) judge(q appraise.Request, by func(appraise.Request) appraise.Verdict) (judgements, error) {
	all, collateral, err := p.load()
	if err != nil {
		return nil, err
	}
	q.Collateral, q.Revocation = collateral, p.revocation
	var refused judgements
	for _, v := range all {
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
