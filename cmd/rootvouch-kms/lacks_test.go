package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rootvouch/rootvouch/refval"
	"github.com/rootvouch/rootvouch/snp"
	"github.com/rootvouch/rootvouch/test/snptest"
)

// TestLacks: of each root that reference values name, a list that is missing or old is told.
func TestLacks(t *testing.T) {
	chip := snptest.New(t, snp.Genoa)
	now := snptest.Now()
	emulated := refval.New(refval.EmulatedARK(chip.Chain.ARKDigest()), nil)
	genoa := refval.New(refval.AMD(), nil, refval.Product{Name: snp.Genoa, MinimumTCB: refval.Any[snp.TCB]()})
	for _, c := range []struct {
		name   string
		values refval.Values
		ark    bool
		until  time.Time // of the emulated ARK's list; zero: there is none
		want   string
	}{
		{"emulated", emulated, true, now.Add(time.Hour), ""},
		{"emulated, the list is old", emulated, true, now.Add(-time.Minute), "has no fresh CRL of the emulated ARK"},
		{"emulated, no list", emulated, true, time.Time{}, "has no fresh CRL of the emulated ARK"},
		{"emulated, its certificate comes with the evidence", emulated, false, now.Add(time.Hour), ""},
		{"emulated, nothing there", emulated, false, time.Time{}, "none of the CRLs"},
		{"AMD beside an emulated list", genoa, true, now.Add(time.Hour), "has no fresh CRL of AMD's ARK for Genoa"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			if c.ark {
				must(t, os.WriteFile(filepath.Join(dir, "ark.der"), chip.Chain.ARK.Raw, 0o600))
			}
			if !c.until.IsZero() {
				from := now.Add(-2 * time.Hour)
				must(t, os.WriteFile(filepath.Join(dir, "ark.crl"), chip.CRLAt(t, from.Unix(), from, c.until).Raw, 0o600))
			}
			got := strings.Join(newCollateralDir(dir, func() time.Time { return now }, slog.New(slog.DiscardHandler)).lacks(c.values), "; ")
			if (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}
