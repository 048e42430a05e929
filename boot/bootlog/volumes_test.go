package bootlog

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rootvouch/rootvouch/pins"
)

func TestVolumes(t *testing.T) {
	want := sample()
	want.Volumes = []Volume{{pins.UUID{7}, "/data", 0, New}, {pins.UUID{8}, "/srv", 3, Fresh}, {pins.UUID{9}, "/b", 0, Unclean}, {pins.UUID{10}, "/c", 3, Accepted}}
	got, err := Decode(encode(t, want))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for _, c := range []struct {
		name   string
		change func(*Volume)
		want   string
	}{
		{"no UUID", func(v *Volume) { v.UUID = pins.UUID{} }, "uuid is all zero"},
		{"no freshness", func(v *Volume) { v.Freshness = "" }, "freshness is"},
		{"another freshness", func(v *Volume) { v.Freshness = "stale" }, "freshness is"},
		{"new and closed before", func(v *Volume) { v.Freshness = New }, `freshness is "new", and generation 3`},
		{"fresh and never closed", func(v *Volume) { v.Generation = 0 }, `freshness is "fresh", and generation 0`},
		{"mount point", func(v *Volume) { v.MountPoint = "data" }, "mount_point"},
		{"control character", func(v *Volume) { v.MountPoint = "/\x1b" }, "printable ASCII"},
	} {
		l := sample()
		l.Volumes = []Volume{{pins.UUID{8}, "/srv", 3, Fresh}}
		c.change(&l.Volumes[0])
		if err := l.Check(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got error %v, want one with %q", c.name, err, c.want)
		}
	}
	l := sample()
	l.Volumes = make([]Volume, maxVolumes+1)
	if err := l.Check(); err == nil || !strings.Contains(err.Error(), "volumes are 9") {
		t.Errorf("too many: got error %v", err)
	}
}
