package attest

import (
	"strings"
	"testing"

	"github.com/rootvouch/rootvouch/boot/bootlog"
	"github.com/rootvouch/rootvouch/pins"
)

// TestVolumes: the result says what was unknown about a volume.
func TestVolumes(t *testing.T) {
	for _, c := range []struct {
		freshness bootlog.Freshness
		want      string
	}{
		{bootlog.New, "it was new"},
		{bootlog.Fresh, "it was as it was closed, generation 3"},
		{bootlog.Unclean, "it was not closed: FRESHNESS UNKNOWN since generation 3"},
		{bootlog.Accepted, "FRESHNESS UNKNOWN since generation 3"},
	} {
		got := describeVolume(bootlog.Volume{UUID: pins.UUID{1}, MountPoint: "/data", Generation: 3, Freshness: c.freshness})
		if !strings.Contains(got, c.want) || !strings.Contains(got, "on /data") {
			t.Errorf("%s: got %q, want %q in it", c.freshness, got, c.want)
		}
	}
}
