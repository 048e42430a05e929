package keyapi

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rootvouch/rootvouch/pins"
)

// ofVolume is a release of a volume that was closed twice.
func ofVolume() *Released {
	r := released()
	r.Volume = &Volume{Found: FoundClosed, Generation: 2, Digest: pins.Digest{3}, Holder: Holder{4}, CommitKey: [32]byte{5}}
	return r
}

func TestVolumeRoundTrip(t *testing.T) {
	for _, change := range []func(*Volume){
		func(*Volume) {},
		func(v *Volume) { v.Found, v.Generation, v.Digest = FoundNew, 0, pins.Digest{} },
		func(v *Volume) { v.Found, v.AcceptUnclean = FoundUnclean, true },
		func(v *Volume) { v.Found, v.Generation, v.Digest = FoundUnclean, 0, pins.Digest{} },
		func(v *Volume) { v.Found = FoundAccepted },
	} {
		want := ofVolume()
		change(want.Volume)
		got, err := ParseReleased(marshal(t, want))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Error(diff)
		}
	}
}

func TestVolumeRefuses(t *testing.T) {
	good := marshal(t, ofVolume())
	at := len(good) - volumeSize
	change := func(offset int, to ...byte) []byte {
		b := bytes.Clone(good)
		copy(b[at+offset:], to)
		return b
	}
	for _, c := range []struct {
		name string
		data []byte
		want string
	}{
		{"truncated", good[:len(good)-1], "volume has 105 bytes, want 106"},
		{"trailing byte", append(bytes.Clone(good), 0), "volume has 107 bytes, want 106"},
		{"not found", change(volFound, 0), "volume was found Found(0)"},
		{"found otherwise", change(volFound, 5), "volume was found Found(5)"},
		{"new with a generation", change(volFound, byte(FoundNew)), "volume is new but has generation 2"},
		{"unclean accepted by half", change(volAcceptUnclean, 2), "is 0x2, want 0 or 1"},
		{"closed and never closed", change(volGeneration, make([]byte, 8)...), "volume was closed but has generation 0"},
		{"closed without a digest", change(volDigest, make([]byte, 32)...), "digest 0000"},
		{"no holder", change(volHolder, make([]byte, 32)...), "holder of the volume is all zero"},
		{"no commit key", change(volCommitKey, make([]byte, 32)...), "commit key of the volume is all zero"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := ParseReleased(c.data); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v, want one with %q", err, c.want)
			}
		})
	}
}

func TestVolumeWipe(t *testing.T) {
	r := ofVolume()
	v := r.Volume
	r.Wipe()
	if v.CommitKey != [32]byte{} {
		t.Errorf("commit key is %x after Wipe, want zeros", v.CommitKey)
	}
}

// A commit counts for one key, one disk, one holder, one generation and one digest.
func TestCommit(t *testing.T) {
	key, disk := [32]byte{1}, pins.UUID{2}
	good := NewCommit(key, disk, Holder{3}, 4, pins.Digest{5})
	decoded, err := Decode[CommitRequest](Encode(good))
	if err != nil || decoded != good {
		t.Fatalf("got %+v, %v, want %+v", decoded, err, good)
	}
	if !good.Verify(key, disk) {
		t.Error("a good commit is refused")
	}
	for name, c := range map[string]CommitRequest{
		"holder":     {1, Holder{9}, 4, pins.Digest{5}, good.MAC},
		"generation": {1, Holder{3}, 5, pins.Digest{5}, good.MAC},
		"digest":     {1, Holder{3}, 4, pins.Digest{6}, good.MAC},
		"MAC":        {1, Holder{3}, 4, pins.Digest{5}, pins.Digest{}},
	} {
		if c.Verify(key, disk) {
			t.Errorf("a commit with another %s is taken", name)
		}
	}
	if good.Verify([32]byte{2}, disk) || good.Verify(key, pins.UUID{3}) {
		t.Error("a commit with another key, or for another disk, is taken")
	}
	for name, c := range map[string]CommitRequest{
		"no generation": NewCommit(key, disk, Holder{3}, 0, pins.Digest{5}),
		"no digest":     NewCommit(key, disk, Holder{3}, 4, pins.Digest{}),
		"no holder":     NewCommit(key, disk, Holder{}, 4, pins.Digest{5}),
	} {
		if _, err := Decode[CommitRequest](Encode(c)); err == nil {
			t.Errorf("%s: decoded", name)
		}
	}
}
