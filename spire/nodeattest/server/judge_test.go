package server

import (
	"crypto/rand"
	"fmt"
	"testing"
	"time"

	configv1 "github.com/spiffe/spire-plugin-sdk/proto/spire/service/common/config/v1"

	"github.com/rootvouch/rootvouch/appraise"
	"github.com/rootvouch/rootvouch/evidence"
	"github.com/rootvouch/rootvouch/test/snpdevtest"
)

// FuzzPayload calls the plugin as SPIRE does. The plugin refuses any bytes that are
// sent as evidence, and goes on.
func FuzzPayload(f *testing.F) {
	now := time.Now()
	sp := snpdevtest.New(f, now)
	launch := sp.Launch(wanted, once)
	refvals, collateral := snpdevtest.WriteValues(f, sp.Values(wanted)), sp.Collateral
	c, err := build(&configv1.CoreConfiguration{TrustDomain: "example.org"}, fmt.Sprintf("refval_files = [%q]\ncollateral_dir = %q", refvals, collateral))
	if err != nil {
		f.Fatal(err)
	}
	p := New(func() time.Time { return now }, rand.Reader)
	good, err := evidence.Evidence{Report: launch.Sign(evidence.NodeAttestation(evidence.Nonce{})), Certificates: sp.Chain.Certificates()}.Encode()
	if err != nil {
		f.Fatal(err)
	}
	if _, err := p.judge(c, evidence.Nonce{}, good); err != nil {
		f.Fatal(err)
	}
	f.Add(good[:len(good)-1])
	f.Add([]byte(`{"version":1,"report":"","certificates":[]}`))
	f.Fuzz(func(t *testing.T, answer []byte) {
		if attributes, err := p.judge(c, evidence.Nonce{1}, answer); err == nil {
			t.Errorf("accepted %q as %v", answer, attributes)
		}
	})
}

// Signatures of the roots are verified once, whatever is attested or configured
// after that.
func TestOneMemo(t *testing.T) {
	f := load(t)
	var memos []*appraise.Memo
	f.plugin.appraise = func(q appraise.Request) appraise.Verdict {
		memos = append(memos, q.Memo)
		return appraise.Appraise(q)
	}
	for range 2 {
		f.mustConfigure()
		if _, err := f.attest(f.genuine(f.launch)); err != nil {
			t.Fatal(err)
		}
	}
	if len(memos) != 2 || memos[0] == nil || memos[0] != memos[1] {
		t.Errorf("memos are %p, want one, twice", memos)
	}
}

// BenchmarkJudge is what one attestation costs the server's plugin, without the
// way there and back.
func BenchmarkJudge(b *testing.B) {
	now := time.Now()
	sp := snpdevtest.New(b, now)
	launch := sp.Launch(wanted, once)
	c, err := build(&configv1.CoreConfiguration{TrustDomain: "example.org"},
		fmt.Sprintf("refval_files = [%q]\ncollateral_dir = %q", snpdevtest.WriteValues(b, sp.Values(wanted)), sp.Collateral))
	if err != nil {
		b.Fatal(err)
	}
	p := New(func() time.Time { return now }, rand.Reader)
	good, err := evidence.Evidence{Report: launch.Sign(evidence.NodeAttestation(evidence.Nonce{})), Certificates: sp.Chain.Certificates()}.Encode()
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := p.judge(c, evidence.Nonce{}, good); err != nil {
			b.Fatal(err)
		}
	}
}
