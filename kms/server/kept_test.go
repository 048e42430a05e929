package server

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rootvouch/rootvouch/appraise"
	"github.com/rootvouch/rootvouch/evidence"
	"github.com/rootvouch/rootvouch/kms/fetchkey"
	"github.com/rootvouch/rootvouch/kms/keyapi"
	"github.com/rootvouch/rootvouch/snp"
)

// TestEvidenceWithoutCertificate: the operator of a server that lacks the certificate of
// a chip reads which one, and finds the evidence by which to fetch it. Evidence that is
// refused for another reason is not kept.
func TestEvidenceWithoutCertificate(t *testing.T) {
	r := newRig(t)
	ask := func(launch func([64]byte) (evidence.Evidence, error)) []string {
		t.Helper()
		released, err := fetchkey.Fetch(t.Context(), r.guest(r.vm(), launch))
		if err == nil {
			released.Wipe()
			t.Fatal("a key was released")
		}
		files, err := filepath.Glob(filepath.Join(r.dir, "evidence", "*"))
		if err != nil {
			t.Fatal(err)
		}
		return files
	}
	other := r.launch(1, func(x *snp.Report) { x.Measurement[0]++ })
	if files := ask(other); len(files) != 0 {
		t.Errorf("evidence of another measurement is kept: %q", files)
	}
	bare := func(data [64]byte) (evidence.Evidence, error) {
		e, err := r.launch(2)(data)
		e.Certificates = nil
		return e, err
	}
	ask(bare)
	files := ask(bare)
	if len(files) != 1 {
		t.Fatalf("kept %q, want one file", files)
	}
	data, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	e, err := appraise.Read(data, evidence.Plain)
	if err != nil {
		t.Fatal(err)
	}
	refusal := r.refused()
	for _, want := range []string{e.Claims().ChipID.String(), e.Claims().ReportedTCB.String()} {
		if refusal.Code != string(keyapi.CodeDenied) || !strings.Contains(refusal.Reason, want) {
			t.Errorf("refusal is %q: %q, want one that names %s", refusal.Code, refusal.Reason, want)
		}
	}
}
