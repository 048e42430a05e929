package release

import (
	"errors"
	"fmt"
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
	"github.com/rootvouch/rootvouch/volume"
)

// digests are the first bytes of the launch digests that a volume's record accepts.
func (b *bench) digests(t *testing.T, id pins.UUID) (all []byte) {
	t.Helper()
	r := b.records[id]
	values, err := refval.Decode(r.ReferenceValues)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range values.Measurements {
		all = append(all, m.Digest[0])
	}
	slices.Sort(all)
	return all
}

// TestVolumeFollowsReleases: a volume's record accepts the releases that are live, through an
// update, a rollback and a retirement, and is retired with the last.
func TestVolumeFollowsReleases(t *testing.T) {
	b := newBench(t)
	end := now.Add(48 * time.Hour)
	check := func(when string, state string, want ...byte) {
		t.Helper()
		if got := b.digests(t, testVolume(t).DiskUUID); !slices.Equal(got, want) {
			t.Errorf("%s: the record accepts %v, want %v", when, got, want)
		}
		if got := b.records[testVolume(t).DiskUUID].State; got != state {
			t.Errorf("%s: the record is %s, want %s", when, got, state)
		}
	}
	do := func(plan func() ([]Step, error)) {
		t.Helper()
		all, err := plan()
		if err == nil {
			err = Apply(t.Context(), all, nil)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	live(1, Target{})(t, b)
	check("one", "enabled", 1)
	live(2, Target{OldEnd: &end})(t, b)
	check("side by side", "enabled", 1, 2)
	do(func() ([]Step, error) { return b.PlanRollback(t.Context(), made(t, 1), "release2") })
	check("rolled back", "enabled", 1)
	live(3, Target{OldEnd: &now})(t, b)
	check("the old one ended", "enabled", 3)
	do(func() ([]Step, error) { return b.PlanRetire(t.Context(), "web", "release3") })
	check("all retired", "retired", 3)
	live(2, Target{})(t, b)
	check("back", "enabled", 2)
	if r := b.records[testVolume(t).DiskUUID]; r.Volume == nil || r.Volume.Writers != "exclusive" {
		t.Errorf("the record is %+v, want one of a volume", r)
	}
}

// TestRetireClosesAllVolumes: a retired release keeps no volume's key, on whatever page the
// record is; one that is disabled may be enabled again.
func TestRetireClosesAllVolumes(t *testing.T) {
	b := newBench(t)
	end := now.Add(48 * time.Hour)
	live(1, Target{})(t, b)
	live(2, Target{OldEnd: &end})(t, b)
	states := map[pins.UUID]string{{7}: "enabled", {8}: "disabled", {9}: "enabled"}
	for id, state := range states {
		r := b.records[testVolume(t).DiskUUID]
		r.DiskUUID, r.State = id, state
		b.records[id] = r
	}
	steps, err := b.PlanRetire(t.Context(), "web", "release1")
	if err != nil {
		t.Fatal(err)
	}
	if err := Apply(t.Context(), steps, nil); err != nil {
		t.Fatal(err)
	}
	for id, state := range states {
		if got := b.digests(t, id); !slices.Equal(got, []byte{2}) || b.records[id].State != state {
			t.Errorf("record %s is %s and accepts %v, want %s and 2 alone", id, b.records[id].State, got, state)
		}
	}
}

// TestVolumeRefused: without its key a volume is not registered, and a record of another kind,
// for another VM, or with another policy is not taken for it.
func TestVolumeRefused(t *testing.T) {
	b := newBench(t)
	b.VolumeKeys, b.Key = nil, keyOf(1)
	all, err := b.Plan(t.Context(), made(t, 1), Target{})
	if err != nil {
		t.Fatal(err)
	}
	if err := Apply(t.Context(), all, nil); !errors.Is(err, ErrNoVolumeKey) {
		t.Errorf("without a key: got error %v", err)
	}
	b.VolumeKeys = func() ([][]byte, error) { keys, err := volumeKeys(); return keys[:1], err }
	if err := Apply(t.Context(), all[1:], nil); !errors.Is(err, ErrNoVolumeKey) {
		t.Errorf("with another's key: got error %v", err)
	}
	for want, spoil := range map[string]func(*adminapi.Record){
		"is another than":    func(r *adminapi.Record) { r.Volume = nil },
		"vm/other":           func(r *adminapi.Record) { r.SPIFFEID = "spiffe://example.org/vm/other" },
		"header SHA-256":     func(r *adminapi.Record) { r.HeaderSHA256[0]++ },
		"writers takeover":   func(r *adminapi.Record) { r.Volume = &adminapi.VolumePolicy{Writers: "takeover", Unclean: "refuse"} },
		"is disabled":        func(r *adminapi.Record) { r.State = "disabled" },
		"reading the record": func(r *adminapi.Record) { r.ReferenceValues = []byte("{}") },
	} {
		b := newBench(t)
		live(1, Target{})(t, b)
		id := testVolume(t).DiskUUID
		r := b.records[id]
		spoil(&r)
		b.records[id] = r
		if _, err := b.Plan(t.Context(), made(t, 1), Target{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got error %v", want, err)
		}
	}
}

// makeVolume writes an image and the pins of a volume.
func makeVolume(t *testing.T, dir string, n byte) (image, pinsFile string, p volume.Pins) {
	t.Helper()
	header, err := volume.Header([32]byte{n}, pins.UUID{n})
	if err != nil {
		t.Fatal(err)
	}
	p = volume.NewPins(pins.Header{DiskUUID: pins.UUID{n}, HeaderSHA256: sum(header)}, 64<<20)
	image, pinsFile = filepath.Join(dir, fmt.Sprintf("data%d.img", n)), filepath.Join(dir, fmt.Sprintf("data%d.json", n))
	if err := errors.Join(os.WriteFile(image, header, 0o600), os.Truncate(image, int64(p.Size)), os.WriteFile(pinsFile, p.Encode(), 0o600)); err != nil {
		t.Fatal(err)
	}
	return image, pinsFile, p
}

// TestBuildVolumes: boot.json and the manifest have the volumes of vm.json, and a root that
// cannot make their filesystem has a note. A launch is given these volumes, each once.
func TestBuildVolumes(t *testing.T) {
	dir, document := inputs(t)
	first, firstPins, p := makeVolume(t, dir, 1)
	second, _, _ := makeVolume(t, dir, 2)
	other, _, _ := makeVolume(t, dir, 3)
	document["volumes"] = []any{
		map[string]any{"pins": filepath.Base(firstPins), "mount_point": "/var/lib/app"},
		map[string]any{"pins": "data2.json", "mount_point": "/srv/data", "filesystem": "ext4", "writers": "takeover", "unclean": "accept"},
	}
	vm, err := decode(t, dir, document)
	if err != nil {
		t.Fatal(err)
	}
	var notes []string
	out := filepath.Join(t.TempDir(), "r")
	r, err := Build(t.Context(), vm, Options{Dir: out, Rand: seeded(), Now: now, Keep: func(*Release, []byte) error { return nil },
		Note: func(name, text string) { notes = append(notes, name+": "+text) }})
	if err != nil {
		t.Fatal(err)
	}
	want := []Mounted{
		{p.Header, 64 << 20, Mount{"/var/lib/app", bootconfig.Ext4, "exclusive", "refuse"}},
		{pins.Header{DiskUUID: pins.UUID{2}, HeaderSHA256: r.Manifest.Volumes[1].HeaderSHA256}, 64 << 20, Mount{"/srv/data", bootconfig.Ext4, "takeover", "accept"}},
	}
	if diff := cmp.Diff(want, r.Manifest.Volumes); diff != "" {
		t.Error(diff)
	}
	text, err := os.ReadFile(r.Path(BootFile))
	if err != nil {
		t.Fatal(err)
	}
	c, err := bootconfig.Decode(text)
	if err != nil || len(c.Volumes) != 2 || c.Volumes[1] != (bootconfig.Volume{UUID: pins.UUID{2}, MountPoint: "/srv/data", Filesystem: bootconfig.Ext4}) {
		t.Errorf("boot.json has %+v, error %v", c.Volumes, err)
	}
	if !slices.ContainsFunc(notes, func(n string) bool { return strings.HasPrefix(n, "mkfs: there is no mkfs.ext4") }) {
		t.Errorf("notes are %q, want one about mkfs.ext4", notes)
	}
	for name, images := range map[string][]string{
		"no --volume is that one": {first}, "is no volume of": {first, second, other}, "are both volume": {first, second, second},
		"has 1048577 bytes, want the": {first, short(t, dir, second)}, "reading the header": {first, second, firstPins},
	} {
		if err := r.CheckVolumes(images); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%q: got error %v", name, err)
		}
	}
	if err := r.CheckVolumes([]string{second, first}); err != nil {
		t.Error(err)
	}
	for name, volumes := range map[string][]any{
		"mount_point": {map[string]any{"pins": "data1.json", "mount_point": "/etc/x"}},
		"twice":       {map[string]any{"pins": "data1.json", "mount_point": "/a"}, map[string]any{"pins": "data1.json", "mount_point": "/b"}},
		"filesystem":  {map[string]any{"pins": "data1.json", "mount_point": "/a", "filesystem": "fat"}},
		"ark.der":     {map[string]any{"pins": "ark.der", "mount_point": "/a"}},
	} {
		document["volumes"] = volumes
		vm, err := decode(t, dir, document)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := build(t, vm, filepath.Join(t.TempDir(), "r"), nil); err == nil || !strings.Contains(err.Error(), "building volumes: ") || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: got error %v", name, err)
		}
	}
}

// short is a copy of a volume that was cut.
func short(t *testing.T, dir, image string) string {
	t.Helper()
	data, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "short.img")
	if err := os.WriteFile(path, data[:1<<20+1], 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
