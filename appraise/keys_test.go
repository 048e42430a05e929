package appraise_test

import (
	"crypto/x509"
	"slices"
	"testing"

	"github.com/rootvouch/rootvouch/appraise"
	"github.com/rootvouch/rootvouch/evidence"
	"github.com/rootvouch/rootvouch/snp"
	"github.com/rootvouch/rootvouch/test/snptest"
)

// TestTables: a key that signs many reports gets a table, which changes no verdict.
// A key without a chain to a root gets none.
func TestTables(t *testing.T) {
	s, other := newSigner(t, snp.Genoa), snptest.New(t, snp.Genoa)
	memo := &appraise.Memo{}
	good := func() asked {
		return request(t, s, s.Evidence(t, [64]byte{}), func(q *asked) { q.Memo = memo })
	}
	for i := range 6 {
		if err := good().judge().Err(); err != nil {
			t.Fatal(err)
		}
		if i == 0 && memo.Tables() != 0 {
			t.Error("a key has a table from the first report on")
		}
	}
	if memo.Tables() != 1 {
		t.Fatalf("%d keys have a table, want 1", memo.Tables())
	}
	for i := range 6 {
		foreign := good()
		foreign.Evidence = other.Evidence(t, [64]byte{})
		if foreign.judge().Trusted() {
			t.Error("another root's evidence is trusted")
		}
		changed := good()
		changed.Evidence.Report[0x50+i] ^= 1 // REPORT_DATA
		if changed.judge().Trusted() {
			t.Error("a changed report is trusted")
		}
		swapped := good()
		swapped.Evidence.Certificates[0] = other.Evidence(t, [64]byte{}).Certificates[0]
		if swapped.judge().Trusted() {
			t.Error("another chip's certificate vouches")
		}
		signature := good()
		signature.Evidence.Report[0x2a0+i] ^= 1
		if signature.judge().Trusted() {
			t.Error("a changed signature is trusted")
		}
	}
	if memo.Tables() != 1 {
		t.Errorf("%d keys have a table, want 1", memo.Tables())
	}
	if err := good().judge().Err(); err != nil {
		t.Error(err)
	}
}

// TestMemoRead: Read gives the same evidence with a memo as without, also the
// second time, and the same refusals.
func TestMemoRead(t *testing.T) {
	s := newSigner(t, snp.Genoa)
	memo := &appraise.Memo{}
	document, err := s.Evidence(t, [64]byte{1}).Encode()
	if err != nil {
		t.Fatal(err)
	}
	plain, err := appraise.Read(document, evidence.Plain)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		got, err := memo.Read(document, evidence.Plain)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.EqualFunc(got.Certificates(), plain.Certificates(), (*x509.Certificate).Equal) || got.Claims() != plain.Claims() {
			t.Error("evidence that was read with a memo is another")
		}
	}
	bad := s.Evidence(t, [64]byte{1})
	bad.Certificates[0] = bad.Certificates[0][:len(bad.Certificates[0])-1]
	if document, err = bad.Encode(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := memo.Read(document, evidence.Plain); err == nil {
			t.Error("a certificate that is cut off is taken")
		}
	}
	if _, err := (*appraise.Memo)(nil).Read(document[:9], evidence.Plain); err == nil {
		t.Error("half a document is taken")
	}
}
