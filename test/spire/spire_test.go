package spire

import (
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/rootvouch/rootvouch/snp"
	"github.com/rootvouch/rootvouch/spire/admin"
	"github.com/rootvouch/rootvouch/spire/trust"
	"github.com/rootvouch/rootvouch/test/snpdevtest"
)

const soon = 100 * time.Millisecond // sync_interval of agents, as PID 1 has it

func TestStockSPIRE(t *testing.T) {
	w := build(t)
	w.start(nil)
	first := w.entries()
	if want := []admin.Action{admin.Created, admin.Created}; !slices.Equal(actions(first), want) {
		t.Errorf("actions are %v, want %v", actions(first), want)
	}
	t.Run("attests", w.testAttest)
	t.Run("restarts", w.testRestart)
	t.Run("refuses another measurement", w.testMeasurement)
	t.Run("refuses a revoked VCEK", w.testRevoked)
	t.Run("refuses while there is no CRL", w.testNoCRL)
	t.Run("gives a measurement without an entry no SVID", w.testNoEntry)
	t.Run("applies entries idempotently", w.testEntries)
	t.Run("serves the owner's side", w.testOwner)
	t.Run("attests many at once", w.testMany)
}

// Reference values may stand in server.conf.
func TestInlineRefval(t *testing.T) {
	w := build(t)
	values, err := w.sp.Values(wanted).Encode()
	if err != nil {
		t.Fatal(err)
	}
	files := fmt.Sprintf("refval_files   = [%q]", w.refval)
	w.start(func(conf string) string {
		if !strings.Contains(conf, files) {
			t.Fatalf("no %s in:\n%s", files, conf)
		}
		conf = strings.Replace(conf, files, "", 1)
		// The member comes last, as in a file that a person writes.
		head, tail, _ := strings.Cut(conf, "      selectors = ")
		line, tail, _ := strings.Cut(tail, "\n")
		return head + "      selectors = " + line + "\n      refval = <<END\n" + string(values) + "END\n" + tail
	})
	w.entries()
	if _, err := w.svid(w.agent(w.newLaunch(wanted), soon), 20*time.Second); err != nil {
		t.Error(err)
	}
	w.refused(t, w.newLaunch(snp.Measurement{9}), "evidence is refused: measurement")
}

func actions(changes []admin.Change) []admin.Action {
	var all []admin.Action
	for _, c := range changes {
		all = append(all, c.Action)
	}
	return all
}

func (w *rig) testAttest(t *testing.T) {
	svid, err := w.svid(w.agent(w.newLaunch(wanted), soon), 20*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if svid.ID != workload {
		t.Errorf("SVID is of %s, want %s", svid.ID, workload)
	}
	w.checkChain(t, svid)
}

// checkChain verifies an SVID by the measured root alone.
func (w *rig) checkChain(t *testing.T, svid *x509svid.SVID) {
	t.Helper()
	pem, err := os.ReadFile(filepath.Join(w.config.CADir, trust.RootCert))
	if err != nil {
		t.Fatal(err)
	}
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	for _, c := range svid.Certificates[1:] {
		intermediates.AddCert(c)
	}
	if _, err := svid.Certificates[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: intermediates}); err != nil {
		t.Errorf("the SVID does not lead to the long-lived root: %v", err)
	}
}

// A restarted agent attests again under the same ID: its launch is the same.
func (w *rig) testRestart(t *testing.T) {
	device := w.newLaunch(wanted)
	dir, err := os.MkdirTemp(w.dir, "a")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 3 {
		if i == 2 { // nothing left of the former life
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
		}
		a := w.agentIn(dir, device, soon)
		if _, err := w.svid(a, 20*time.Second); err != nil {
			t.Fatalf("start %d: %v\n%s", i, err, a.output())
		}
		id := w.agentID(snp.ReportID{w.nextID}.String()).String()
		if _, ok := a.said(id); !ok {
			t.Errorf("start %d: agent is not %s:\n%s", i, id, a.output())
		}
		a.stop()
	}
}

// refused starts an agent that must end without an SVID.
func (w *rig) refused(t *testing.T, device, reason string) {
	t.Helper()
	a := w.agent(device, soon)
	select {
	case <-a.done:
	case <-time.After(20 * time.Second):
		t.Fatalf("agent still runs:\n%s", a.output())
	}
	if !strings.Contains(a.output(), reason) {
		t.Errorf("agent does not say %q:\n%s", reason, a.output())
	}
}

func (w *rig) testMeasurement(t *testing.T) {
	w.refused(t, w.newLaunch(snp.Measurement{9}), "evidence is refused: measurement")
}

func (w *rig) testRevoked(t *testing.T) {
	w.sp.Revoke(true)
	defer w.sp.Revoke()
	w.refused(t, w.newLaunch(wanted), "evidence is refused: revocation")
}

// The plugin asks no server for a CRL. The operator's timer has failed to fetch
// one.
func (w *rig) testNoCRL(t *testing.T) {
	if err := os.Remove(filepath.Join(w.sp.Collateral, "ark.crl")); err != nil {
		t.Fatal(err)
	}
	w.refused(t, w.newLaunch(wanted), "evidence is refused: revocation")
	w.sp.Revoke()
	a := w.agent(w.newLaunch(wanted), soon)
	if _, err := w.svid(a, 20*time.Second); err != nil {
		t.Errorf("with a CRL again: %v\n%s", err, a.output())
	}
}

// An agent that the reference values accept gets no SVID without an entry.
func (w *rig) testNoEntry(t *testing.T) {
	other := snp.Measurement{4}
	snpdevtest.RewriteValues(t, w.refval, w.sp.Values(wanted, other))
	defer snpdevtest.RewriteValues(t, w.refval, w.sp.Values(wanted))
	a := w.agent(w.newLaunch(other), soon)
	svid, err := w.svid(a, 2*time.Second)
	if err == nil || !strings.Contains(err.Error(), "no identity issued") {
		t.Errorf("got %v, error %v, want no identity:\n%s", svid, err, a.output())
	}
}

func (w *rig) testEntries(t *testing.T) {
	if got := actions(w.entries()); !slices.Equal(got, []admin.Action{admin.Unchanged, admin.Unchanged}) {
		t.Errorf("applied again: %v", got)
	}
	if got := actions(w.entries(w.sp.Values(snp.Measurement{5}, snp.Measurement{6}))); !slices.Equal(got,
		[]admin.Action{admin.Created, admin.Created, admin.Unchanged, admin.Removed}) {
		t.Errorf("with other measurements: %v", got)
	}
	moved := w.program
	moved.Path = "/bin/fetchkey"
	group, err := admin.VM{Name: "one", Values: nil, Workload: workload, Fetchkey: moved}.Entries(domain)
	if err == nil {
		t.Errorf("got %v without a measurement, want an error", group)
	}
	group, err = admin.VM{Name: "one", Values: w.values(wanted), Workload: workload, Fetchkey: moved}.Entries(domain)
	if err != nil {
		t.Fatal(err)
	}
	changes, err := w.admin.Apply(t.Context(), group)
	if err != nil {
		t.Fatal(err)
	}
	if got := actions(changes); !slices.Equal(got, []admin.Action{admin.Created, admin.Updated, admin.Removed, admin.Removed}) {
		t.Errorf("with another path: %v", got)
	}
	w.entries()
}

// testMany has 50 agents of 50 launches start at once.
func (w *rig) testMany(t *testing.T) {
	const n = 50
	start := time.Now()
	var all []*agent
	for range n {
		all = append(all, w.agent(w.newLaunch(wanted), soon))
	}
	var waiting sync.WaitGroup
	errs := make([]error, n)
	for i, a := range all {
		waiting.Go(func() {
			svid, err := w.svid(a, 60*time.Second)
			if err == nil && svid.ID != workload {
				err = fmt.Errorf("SVID is of %s", svid.ID)
			}
			errs[i] = err
		})
	}
	waiting.Wait()
	for i, err := range errs {
		if err != nil {
			t.Errorf("agent %d: %v\n%s", i, err, all[i].output())
		}
	}
	t.Logf("%d agents had their SVIDs after %v", n, time.Since(start).Round(time.Millisecond))
	for _, a := range all {
		waiting.Go(a.stop)
	}
	waiting.Wait()
}

// testOwner makes the agent on the owner's side attest by join token, restart with
// the used token, and give the KMS (this test) its SVID.
func (w *rig) testOwner(t *testing.T) {
	id := spiffeid.RequireFromPath(domain, admin.KMSPath)
	for range 2 {
		a := w.ownersAgent(id, w.program, 0)
		svid, err := w.svid(a, 20*time.Second)
		if err != nil {
			t.Fatalf("%v\n%s", err, a.output())
		}
		if svid.ID != id {
			t.Errorf("SVID is of %s, want %s", svid.ID, id)
		}
		a.stop()
	}
}
