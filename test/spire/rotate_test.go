package spire

import (
	"encoding/json"
	"os/exec"
	"testing"
	"time"
)

// A VM knows only the long-lived root. It attests to a server that has changed its
// CA since the VM was measured, and gets an SVID of the new CA.
func TestRotatedCA(t *testing.T) {
	w := build(t)
	w.start(nil)
	w.entries()
	before, err := w.svid(w.agent(w.newLaunch(wanted), soon), 20*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	w.rotate()
	a := w.agent(w.newLaunch(wanted), soon)
	after, err := w.svid(a, 20*time.Second)
	if err != nil {
		t.Fatalf("%v\n%s", err, a.output())
	}
	w.checkChain(t, after)
	if before.Certificates[1].Equal(after.Certificates[1]) {
		t.Error("the server's CA is still the same")
	}
}

// rotate makes the server prepare and activate a new CA. It returns the ID of the previous CA.
func (w *rig) rotate() (old string) {
	w.Helper()
	w.authority("prepare")
	var shown struct {
		Prepared, Active struct {
			ID string `json:"authority_id"`
		}
	}
	if err := json.Unmarshal(w.authority("show"), &shown); err != nil {
		w.Fatal(err)
	}
	w.authority("activate", "-authorityID", shown.Prepared.ID)
	return shown.Active.ID
}

func (w *rig) authority(verb string, args ...string) []byte {
	w.Helper()
	args = append([]string{"localauthority", "x509", verb, "-socketPath", w.config.Socket, "-output", "json"}, args...)
	out, err := exec.Command(stock(w, "spire-server"), args...).CombinedOutput()
	if err != nil {
		w.Fatalf("spire-server %v: %v\n%s", args, err, out)
	}
	return out
}
