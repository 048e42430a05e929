package release

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rootvouch/rootvouch/boot/bootconfig"
	"github.com/rootvouch/rootvouch/kms/adminapi"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/refval"
	"github.com/rootvouch/rootvouch/snp"
	"github.com/rootvouch/rootvouch/volume"
)

var now = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)

// crash stands for a process that is killed at a call of a server: before the call had
// its effect, or after.
var errCrash = errors.New("killed")

// bench is a SPIRE server, a key server and a directory, which count changes and can
// be cut off at one.
type bench struct {
	Site
	entries map[string]map[string]Entries // :: VM -> release -> entries
	records map[pins.UUID]adminapi.Record
	keys    map[pins.UUID][]byte
	calls   int // changes that were begun
	killAt  int // the change at which the process is killed; 0: none
	after   bool
}

func newBench(t *testing.T) *bench {
	b := &bench{entries: map[string]map[string]Entries{}, records: map[pins.UUID]adminapi.Record{}, keys: map[pins.UUID][]byte{}}
	b.Site = Site{SPIRE: fakeSPIRE{b}, KMS: fakeKMS{b}, RefvalDir: t.TempDir(), Now: now, VolumeKeys: volumeKeys}
	return b
}

// change carries out one change, or is killed at it.
func (b *bench) change(do func()) error {
	b.calls++
	if b.calls == b.killAt && !b.after {
		return errCrash
	}
	do()
	if b.calls == b.killAt {
		return errCrash
	}
	return nil
}

type fakeSPIRE struct{ *bench }

func (f fakeSPIRE) Releases(_ context.Context, vm string) (all []Entries, err error) {
	for _, name := range slices.Sorted(maps.Keys(f.entries[vm])) {
		all = append(all, f.entries[vm][name])
	}
	return all, nil
}

func (f fakeSPIRE) Missing(_ context.Context, r *Release, end time.Time) (int, error) {
	want := Entries{r.Manifest.Release, end, len(r.Values.Measurements) + 1}
	if f.entries[r.Manifest.Name][r.Manifest.Release] == want {
		return 0, nil
	}
	return want.Count, nil
}

func (f fakeSPIRE) Make(_ context.Context, r *Release, end time.Time) error {
	return f.change(func() {
		if f.entries[r.Manifest.Name] == nil {
			f.entries[r.Manifest.Name] = map[string]Entries{}
		}
		f.entries[r.Manifest.Name][r.Manifest.Release] = Entries{r.Manifest.Release, end, len(r.Values.Measurements) + 1}
	})
}

func (f fakeSPIRE) SetEnd(_ context.Context, vm, release string, end time.Time) error {
	return f.change(func() {
		e := f.entries[vm][release]
		e.End = end
		f.entries[vm][release] = e
	})
}

func (f fakeSPIRE) Remove(_ context.Context, vm, release string) error {
	return f.change(func() { delete(f.entries[vm], release) })
}

type fakeKMS struct{ *bench }

func (f fakeKMS) Get(_ context.Context, disk pins.UUID) (adminapi.Record, error) {
	r, ok := f.records[disk]
	if !ok {
		return r, &adminapi.Error{Status: http.StatusNotFound, Message: "no record"}
	}
	return r, nil
}

func (f fakeKMS) Put(_ context.Context, p adminapi.Put, key []byte) (adminapi.Record, error) {
	if _, ok := f.records[p.DiskUUID]; ok {
		return adminapi.Record{}, &adminapi.Error{Status: http.StatusConflict, Message: "there is a record"}
	}
	// As a server that keeps JSON in its own form.
	var compact bytes.Buffer
	if err := json.Compact(&compact, p.ReferenceValues); err != nil {
		return adminapi.Record{}, err
	}
	return adminapi.Record{}, f.change(func() {
		f.records[p.DiskUUID] = adminapi.Record{Header: p.Header, SPIFFEID: p.SPIFFEID, Evidence: p.Evidence, State: "enabled", ReferenceValues: compact.Bytes(), Volume: p.Volume}
		f.keys[p.DiskUUID] = bytes.Clone(key)
	})
}

func (f fakeKMS) Update(_ context.Context, disk pins.UUID, u adminapi.Update) (adminapi.Record, error) {
	return adminapi.Record{}, f.change(func() {
		r := f.records[disk]
		r.ReferenceValues = u.ReferenceValues
		f.records[disk] = r
	})
}

// Page has one record on a page.
func (f fakeKMS) Page(_ context.Context, q adminapi.Query) (page adminapi.Records, err error) {
	for _, disk := range slices.SortedFunc(maps.Keys(f.records), func(a, b pins.UUID) int { return strings.Compare(a.String(), b.String()) }) {
		r := f.records[disk]
		values, err := refval.Decode(r.ReferenceValues)
		if err != nil {
			return page, err
		}
		if disk.String() <= q.After.String() || !accepts(values, q.Measurement) || q.State != "" && r.State != q.State {
			continue
		}
		if len(page.Records) == 1 {
			page.Next = page.Records[0].DiskUUID
			return page, nil
		}
		page.Records = append(page.Records, r)
	}
	return page, nil
}

func (f fakeKMS) setState(disk pins.UUID, state string) (adminapi.Record, error) {
	return adminapi.Record{}, f.change(func() {
		r := f.records[disk]
		r.State = state
		f.records[disk] = r
	})
}

func (f fakeKMS) Revive(_ context.Context, disk pins.UUID) (adminapi.Record, error) {
	return f.setState(disk, "enabled")
}

func (f fakeKMS) Retire(_ context.Context, disk pins.UUID) (adminapi.Record, error) {
	return f.setState(disk, "retired")
}

// state is all that the servers have, in words.
func (b *bench) state(t *testing.T) []string {
	t.Helper()
	var all []string
	for vm, releases := range b.entries {
		for name, e := range releases {
			all = append(all, fmt.Sprintf("entries %s %s %d %s", vm, name, e.Count, e.End.Format(time.RFC3339)))
		}
	}
	for disk, r := range b.records {
		values, err := refval.Decode(r.ReferenceValues)
		if err != nil {
			t.Fatal(err)
		}
		accepted := ""
		for _, m := range values.Measurements {
			accepted += fmt.Sprintf(" %x", m.Digest[:1])
		}
		all = append(all, fmt.Sprintf("record %s %s %s key %d accepts%s %v", disk, r.State, r.SPIFFEID, b.keys[disk][0], accepted, r.Volume))
	}
	names, err := os.ReadDir(b.RefvalDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		all = append(all, "values "+n.Name())
	}
	slices.Sort(all)
	return all
}

// made is a release with the number n, as Open gives it.
func made(t *testing.T, n byte) *Release {
	t.Helper()
	r := &Release{Pins: pins.Pins{}}
	r.Pins = testPins(n)
	r.Values = refval.New(refval.EmulatedARK(pins.Digest{1}), []refval.Measurement{{
		Digest: snp.Measurement{n}, HostCode: refval.HostCodeNone, Gate: "9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a",
		Kernel: refval.KernelMeasured, VCPUs: 1, CPUType: "EPYC-v4", Provenance: refval.Provenance{KernelSHA256: pins.Digest{n}},
	}})
	r.Values.Pins = refval.Exactly(r.Pins)
	var err error
	if r.Refval, err = r.Values.Encode(); err != nil {
		t.Fatal(err)
	}
	r.Manifest = Manifest{
		Volumes: []Mounted{testVolume(t)},
		Version: version, Release: fmt.Sprintf("release%d", n), Name: "web", SPIFFEID: "spiffe://example.org/vm/web", DiskUUID: r.Pins.DiskUUID,
		Files: map[string]File{RefvalFile: {SHA256: sum(r.Refval)}},
	}
	return r
}

func steps(all []Step) (words []string) {
	for _, s := range all {
		words = append(words, s.What)
	}
	return words
}

func keyOf(n byte) func() ([]byte, error) {
	return func() ([]byte, error) { return bytes.Repeat([]byte{n}, 32), nil }
}

// volumeKeys has the key of testVolume's, after another.
func volumeKeys() ([][]byte, error) {
	return [][]byte{bytes.Repeat([]byte{0x76}, 32), bytes.Repeat([]byte{0x77}, 32)}, nil
}

// testVolume is a volume that all releases mount.
func testVolume(t *testing.T) Mounted {
	t.Helper()
	id := pins.UUID{0x77}
	header, err := volume.Header([32]byte(bytes.Repeat([]byte{0x77}, 32)), id)
	if err != nil {
		t.Fatal(err)
	}
	return Mounted{pins.Header{DiskUUID: id, HeaderSHA256: sum(header)}, 64 << 20, Mount{"/data", bootconfig.Ext4, "exclusive", "refuse"}}
}

// scenario is one rollout on servers that have come some way.
type scenario struct {
	name   string
	before func(t *testing.T, b *bench)
	plan   func(b *bench) ([]Step, error)
}

// live makes release n live.
func live(n byte, target Target) func(t *testing.T, b *bench) {
	return func(t *testing.T, b *bench) {
		t.Helper()
		b.Key = keyOf(n)
		all, err := b.Plan(t.Context(), made(t, n), target)
		if err == nil {
			err = Apply(t.Context(), all, nil)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func scenarios(t *testing.T) []scenario {
	end := now.Add(48 * time.Hour)
	apply := func(n byte, target Target) func(b *bench) ([]Step, error) {
		return func(b *bench) ([]Step, error) {
			b.Key = keyOf(n)
			return b.Plan(t.Context(), made(t, n), target)
		}
	}
	both := func(t *testing.T, b *bench) {
		live(1, Target{})(t, b)
		live(2, Target{OldEnd: &end})(t, b)
	}
	return []scenario{
		{"first", func(*testing.T, *bench) {}, apply(1, Target{})},
		{"with an end", func(*testing.T, *bench) {}, apply(1, Target{End: end})},
		{"side by side", live(1, Target{}), apply(2, Target{})},
		{"the old one ends later", live(1, Target{}), apply(2, Target{OldEnd: &end})},
		{"the old one ends now", live(1, Target{}), apply(2, Target{OldEnd: &now})},
		{"two old ones", both, apply(3, Target{OldEnd: &now})},
		{"retire", live(1, Target{}), func(b *bench) ([]Step, error) { return b.PlanRetire(t.Context(), "web", "release1") }},
		{"roll back", both, func(b *bench) ([]Step, error) { return b.PlanRollback(t.Context(), made(t, 1), "release2") }},
		{"back from a retirement", func(t *testing.T, b *bench) {
			both(t, b)
			all, err := b.PlanRetire(t.Context(), "web", "release1")
			if err == nil {
				err = Apply(t.Context(), all, nil)
			}
			if err != nil {
				t.Fatal(err)
			}
		}, apply(1, Target{})},
		{"what has ended is cleared", func(t *testing.T, b *bench) {
			both(t, b)
			delete(b.entries["web"], "release1") // as the SPIRE server does
			b.Now = end.Add(time.Minute)
		}, apply(2, Target{})},
	}
}

// TestKilledAtEachStep kills the process at each change, before and after its effect,
// and has it start again: the end is the same as without.
func TestKilledAtEachStep(t *testing.T) {
	for _, s := range scenarios(t) {
		t.Run(s.name, func(t *testing.T) {
			whole := newBench(t)
			s.before(t, whole)
			whole.calls = 0
			planned, err := s.plan(whole)
			if err != nil {
				t.Fatal(err)
			}
			if err := Apply(t.Context(), planned, nil); err != nil {
				t.Fatal(err)
			}
			want := whole.state(t)
			if again, err := s.plan(whole); err != nil || len(again) != 0 {
				t.Errorf("planned again: %q, error %v, want nothing", steps(again), err)
			}
			kills := 0
			// One more than there are calls: files are no calls, and are cut by steps below.
			for at := 1; at <= whole.calls; at++ {
				for _, after := range []bool{false, true} {
					b := newBench(t)
					s.before(t, b)
					b.calls, b.killAt, b.after = 0, at, after
					planned, err := s.plan(b)
					if err != nil {
						t.Fatal(err)
					}
					if err := Apply(t.Context(), planned, nil); !errors.Is(err, errCrash) {
						t.Fatalf("killed at %d: got error %v", at, err)
					}
					kills++
					b.killAt = 0
					b.resume(t, s, want)
				}
			}
			for cut := range planned {
				b := newBench(t)
				s.before(t, b)
				all, err := s.plan(b)
				if err != nil {
					t.Fatal(err)
				}
				if err := Apply(t.Context(), all[:cut], nil); err != nil {
					t.Fatal(err)
				}
				kills++
				b.resume(t, s, want)
			}
			if kills == 0 {
				t.Error("nothing was killed")
			}
		})
	}
}

// resume plans and applies again, and compares what comes of it.
func (b *bench) resume(t *testing.T, s scenario, want []string) {
	t.Helper()
	all, err := s.plan(b)
	if err == nil {
		err = Apply(t.Context(), all, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, b.state(t)); diff != "" {
		t.Errorf("after a resumption: %s", diff)
	}
}

func TestPlanSays(t *testing.T) {
	end := now.Add(48 * time.Hour)
	b := newBench(t)
	live(1, Target{})(t, b)
	b.Key = nil
	r := made(t, 2)
	all, err := b.Plan(t.Context(), r, Target{OldEnd: &end})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"register the key of disk " + r.Pins.DiskUUID.String() + " with the key server",
		"let launches of release release2 have the key of volume " + testVolume(t).DiskUUID.String(),
		"write " + filepath.Join(b.RefvalDir, "web.release2.json") + " for the SPIRE server",
		"make 2 entries of release release2 at the SPIRE server",
		"let release release1 end at 2026-11-30T12:00:00Z",
	}
	if diff := cmp.Diff(want, steps(all)); diff != "" {
		t.Error(diff)
	}
	before := b.state(t)
	if err := Apply(t.Context(), all, nil); !errors.Is(err, ErrNoKey) {
		t.Errorf("without a key: got error %v", err)
	}
	if diff := cmp.Diff(before, b.state(t)); diff != "" {
		t.Errorf("without a key something was changed: %s", diff)
	}
	// An end that is earlier already stays.
	later := end.Add(time.Hour)
	live(2, Target{OldEnd: &end})(t, b)
	if all, err := b.Plan(t.Context(), r, Target{OldEnd: &later}); err != nil || len(all) != 0 {
		t.Errorf("a later end for the old one: %q, %v", steps(all), err)
	}
}

// A record that the key server has for another VM, or other reference values, is not
// what the release wants.
func TestPlanRefusesAnotherRecord(t *testing.T) {
	for name, spoil := range map[string]func(*adminapi.Record){
		"SPIFFE ID": func(r *adminapi.Record) { r.SPIFFEID = "spiffe://example.org/vm/other" },
		"evidence":  func(r *adminapi.Record) { r.Evidence = adminapi.EvidenceNotRequired },
		"header":    func(r *adminapi.Record) { r.HeaderSHA256[0]++ },
		"values":    func(r *adminapi.Record) { r.ReferenceValues = made(t, 7).Refval },
	} {
		b := newBench(t)
		live(1, Target{})(t, b)
		disk := testPins(1).DiskUUID
		r := b.records[disk]
		spoil(&r)
		b.records[disk] = r
		if _, err := b.Plan(t.Context(), made(t, 1), Target{}); err == nil || !strings.Contains(err.Error(), "is another than release release1 wants") {
			t.Errorf("%s: got error %v", name, err)
		}
	}
}

// A record that somebody has disabled is not enabled by a rollout.
func TestPlanKeepsADisabledRecord(t *testing.T) {
	b := newBench(t)
	live(1, Target{})(t, b)
	disk := testPins(1).DiskUUID
	r := b.records[disk]
	r.State = "disabled"
	b.records[disk] = r
	if _, err := b.Plan(t.Context(), made(t, 1), Target{}); err == nil || !strings.Contains(err.Error(), "is disabled") {
		t.Errorf("got error %v", err)
	}
}
