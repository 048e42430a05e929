package audit

import (
	"bytes"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/rootvouch/rootvouch/pins"
)

// TestExactRelease: what exactRelease takes, decode reads alike.
func TestExactRelease(t *testing.T) {
	release := entries()[slices.Index(Events(), Release)]
	leafOf := func(change func(*AboutRelease), at time.Time) []byte {
		e := release
		about := e.About.(AboutRelease)
		proof := *about.Proof
		about.Proof = &proof
		change(&about)
		e.About = about
		data, _ := Encode("main", Head{Sequence: 41, Digest: pins.Digest{9}}, at, e)
		return data
	}
	good := leafOf(func(*AboutRelease) {}, noon)
	for name, c := range map[string]struct {
		data  []byte
		exact bool
	}{
		"a release":           {good, true},
		"at a full second":    {leafOf(func(*AboutRelease) {}, noon.Truncate(time.Second)), true},
		"no certificates":     {leafOf(func(a *AboutRelease) { a.Proof.Certificates = []pins.Digest{} }, noon), true},
		"three certificates":  {leafOf(func(a *AboutRelease) { a.Proof.Certificates = make([]pins.Digest, 3) }, noon), true},
		"no reference values": {leafOf(func(a *AboutRelease) { a.Proof.ReferenceValues = pins.Digest{} }, noon), true},
		"no public key":       {leafOf(func(a *AboutRelease) { a.Proof.SPKI = []byte{} }, noon), true},
		"generation 0":        {leafOf(func(a *AboutRelease) { a.Generation = 0 }, noon), true},
		"no evidence":         {leafOf(func(a *AboutRelease) { a.Proof = nil }, noon), false},
		"an escape":           {leafOf(func(a *AboutRelease) { a.Remote = "a&b" }, noon), false},
		"a letter of UTF-8":   {leafOf(func(a *AboutRelease) { a.Remote = "é" }, noon), false},
		"no measurement":      {leafOf(func(a *AboutRelease) { a.Measurement = nil }, noon), false},
		"a short measurement": {leafOf(func(a *AboutRelease) { a.Measurement = make([]byte, 32) }, noon), false},
		"a volume":            {leafOf(func(a *AboutRelease) { a.Volume = &OpenedVolume{Found: 1} }, noon), false},
	} {
		if _, ok := exactRelease(c.data); ok != c.exact {
			t.Errorf("%s: exactRelease takes it: %t, want %t", name, ok, c.exact)
		}
		if !sameLeaf(t, c.data) {
			t.Errorf("%s: decode refuses what Encode wrote: %q", name, c.data)
		}
	}
	for i := range good { // each byte gone, doubled, and changed
		sameLeaf(t, slices.Delete(bytes.Clone(good), i, i+1))
		sameLeaf(t, slices.Insert(bytes.Clone(good), i, good[i]))
		for _, b := range []byte("0\" ,Z\\\x00") {
			changed := bytes.Clone(good)
			changed[i] = b
			sameLeaf(t, changed)
		}
	}
	for _, c := range []struct{ old, new string }{
		{`"disk_uuid":"01`, `"disk_uuid":"00`}, {`"request_sha256":"02`, `"request_sha256":"00`}, {`"report_id":"03`, `"report_id":"00`},
		{`"spiffe_id":"spiffe://example.org/vm"`, `"spiffe_id":""`}, {`"generation":1`, `"generation":01`}, {`"generation":1`, `"generation":`},
		{`"generation":1`, `"generation":18446744073709551616`}, {`"version":1`, `"version":2`}, {`.000005Z`, `.0000050Z`}, {`.000005Z`, `,000005Z`},
		{`.000005Z`, `.000005+00:00`}, {`.000005Z`, `.000005+01:00`}, {`T12:`, `T24:`}, {`"main"`, `"Main"`},
	} {
		bad := bytes.Replace(good, []byte(c.old), []byte(c.new), 1)
		if bytes.Equal(bad, good) {
			t.Fatalf("%s is not in the leaf", c.old)
		}
		sameLeaf(t, bad)
		if _, err := Decode(bad); err == nil {
			t.Errorf("%s is taken", c.new)
		}
	}
}

// sameLeaf compares exactRelease with decode, and reports whether decode takes data.
func sameLeaf(t *testing.T, data []byte) bool {
	t.Helper()
	want, err := decode(data)
	if got, ok := exactRelease(data); ok && (err != nil || !reflect.DeepEqual(got, want)) {
		t.Errorf("%q:\ngot  %+v\nwant %+v, %v", data, got, want, err)
	}
	return err == nil
}
