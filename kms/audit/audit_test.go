package audit

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/snp"
)

var noon = time.Date(2026, 11, 23, 12, 0, 0, 5000, time.UTC)

// entries has one of every event.
func entries() []Entry {
	request := Request{SPIFFEID: "spiffe://example.org/vm", Remote: "192.0.2.1:4711", Disk: pins.UUID{1}, SHA256: pins.Digest{2},
		ReportID: snp.ReportID{3}, Measurement: make([]byte, 48)}
	proof := &Proof{Time: noon, SPKI: []byte("spki"), Report: make([]byte, snp.ReportSize), Certificates: []pins.Digest{{5}}, ReferenceValues: pins.Digest{6}, Collateral: pins.Digest{7}}
	var all []Entry
	for _, event := range Events() {
		e := Entry{Event: event}
		switch event {
		case Init:
			e.About = AboutInit{Origin: "example.org/kms"}
		case Start:
			e.About = AboutStart{SPIFFEID: "spiffe://example.org/kms"}
		case Release:
			e.About = AboutRelease{Request: request, Generation: 1, Proof: proof}
		case ReleaseAgain:
			e.About = AboutRelease{Request: request, Generation: 1}
		case Refusal:
			e.About = AboutRefusal{Request: Request{Remote: "192.0.2.1:4711"}, Code: "denied", Checks: []string{"MEASUREMENT"}, Reason: "lock 2"}
		case LeftOut:
			e.About = AboutLeftOut{Count: 3}
		case MakeKey:
			e.About = AboutMadeKey{Actor: "uid=0", ID: "00"}
		case Join, Leave:
			e.About = AboutReplica{Replica: "kms2"}
		case Backup:
			e.About = AboutBackup{Actor: "uid=0", Ticket: "CHG-2"}
		case Recovery:
			e.About = AboutRecovery{Leaves: 4, Releases: 2, Lost: []LostKey{{Disk: pins.UUID{1}, Generation: 2}}}
		case Export:
			e.About = AboutExport{Actor: "uid=0", Disk: pins.UUID{1}, Generation: 1, Recipients: []string{"age1x"}}
		case Rewrap:
			e.About = AboutRewrap{Actor: "uid=0", KEK: "2026", Items: 3}
		case VolumeClose, VolumeFork, VolumeFree, VolumeAccept, VolumeRestore, VolumeRetire, VolumeReset:
			e.About = AboutVolume{Actor: "uid=0", Disk: pins.UUID{1}, State: "closed", Generation: 2, Digest: pins.Digest{8}}
		default:
			e.About = AboutChange{Actor: "uid=0", Disk: pins.UUID{1}, SPIFFEID: request.SPIFFEID, Generation: 1, Evidence: "required", ReferenceValues: pins.Digest{6},
				Before: []Expiring{{pins.Digest{8}, noon}}, MaxReleases: 3, State: "enabled", Ticket: "CHG-1"}
		}
		all = append(all, e)
	}
	return all
}

func TestRoundTrip(t *testing.T) {
	var head Head
	lanes := Lanes{}
	for _, e := range entries() {
		var data []byte
		data, head = Encode("main", head, noon, e)
		got, err := lanes.Next(data)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(e, got.Entry, cmp.AllowUnexported(AboutInit{}, AboutStart{}, AboutRefusal{}, AboutLeftOut{}, AboutReplica{}, AboutMadeKey{}, AboutBackup{}, AboutRecovery{}, AboutExport{}, AboutRewrap{}, AboutVolume{})); diff != "" {
			t.Error(diff)
		}
		if got.Place != (Place{"main", head.Sequence}) || !got.Time.Equal(noon) || lanes["main"] != head {
			t.Errorf("got %+v, want it at %d", got, head.Sequence)
		}
		if (len(got.About.Contents()) > 0) != !slices.Contains([]Event{Init, Start, Refusal, LeftOut, ReleaseAgain, Join, Leave, MakeKey, Backup, Recovery, Export, Rewrap,
			VolumeClose, VolumeFork, VolumeFree, VolumeAccept, VolumeRestore, VolumeRetire, VolumeReset}, e.Event) {
			t.Errorf("%s refers to %v", e.Event, got.About.Contents())
		}
	}
}

func TestNextRefuses(t *testing.T) {
	all := entries()
	one, head := Encode("main", Head{}, noon, all[0])
	two, head2 := Encode("main", head, noon, all[1])
	three, _ := Encode("main", head2, noon, all[2])
	other, _ := Encode("main", head, noon, all[3])
	foreign, _ := Encode("b", Head{}, noon, all[0])
	for _, c := range []struct {
		name   string
		leaves [][]byte
		want   string
	}{
		{"in order, with another lane between", [][]byte{one, foreign, two, three}, ""},
		{"one missing", [][]byte{one, three}, "leaves are missing"},
		{"the first missing", [][]byte{two}, "leaves are missing"},
		{"swapped", [][]byte{one, three, two}, "leaves are missing"},
		{"twice", [][]byte{one, one}, "leaves are missing"},
		{"one in place of another", [][]byte{one, other, three}, "previous is"},
	} {
		lanes := Lanes{}
		var err error
		for _, leaf := range c.leaves {
			if _, err = lanes.Next(leaf); err != nil {
				break
			}
		}
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got error %v, want one with %q", c.name, err, c.want)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	good, _ := Encode("main", Head{}, noon, Entry{LeftOut, AboutLeftOut{Count: 3}})
	if _, err := Decode(good); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ old, new, want string }{
		{`{`, ` {`, "canonical"},
		{`"version":1`, `"version":2`, "version is 2"},
		{`"lane":"main"`, `"lane":"Main"`, "lane is"},
		{`"event":"left out"`, `"event":"gone"`, `event is "gone"`},
		{`"event":"left out"`, `"event":"start"`, "unknown member"},
		{`"count":3`, `"count":3,"count":3`, "twice"},
		{`"count":3`, `"count":3.0`, "number"},
		{`,"count":3`, ``, "missing"},
		{`Z"`, `+01:00"`, "want UTC"},
		{`}}`, `}}x`, "data after"},
	} {
		bad := bytes.Replace(good, []byte(c.old), []byte(c.new), 1)
		if _, err := Decode(bad); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got error %v, want one with %q", c.new, err, c.want)
		}
	}
}

// TestHostileText comes from peers: every leaf stays within its bound and has one form.
func TestHostileText(t *testing.T) {
	for _, s := range []string{strings.Repeat("\x00", 1<<20), strings.Repeat("<", 1<<20), "\xff\xfe", strings.Repeat("é", 5000), "\u2028\n"} {
		data, _ := Encode("main", Head{}, noon, Entry{Refusal, AboutRefusal{Request: Request{SPIFFEID: s, Remote: s}, Reason: s}})
		if len(data) > MaxLeaf {
			t.Errorf("leaf has %d bytes", len(data))
		}
		if _, err := Decode(data); err != nil {
			t.Error(err)
		}
	}
}

func TestEncodePanics(t *testing.T) {
	for _, e := range []Entry{{}, {Event: Start}, {Event: "gone", About: AboutStart{}}, {Event: Start, About: AboutInit{}}} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%+v is taken", e)
				}
			}()
			Encode("main", Head{}, noon, e)
		}()
	}
}

func FuzzDecode(f *testing.F) {
	for _, e := range entries() {
		data, _ := Encode("main", Head{}, noon, e)
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		sameLeaf(t, data)
		leaf, err := Decode(data)
		if err != nil {
			return
		}
		if again, err := encode(leaf); err != nil || !bytes.Equal(again, data) {
			t.Errorf("got %q, %v, want %q", again, err, data)
		}
		leaf.Summary()
		leaf.About.Contents()
	})
}
