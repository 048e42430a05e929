package history

import (
	"time"

	"github.com/rootvouch/rootvouch/kms/audit"
	"github.com/rootvouch/rootvouch/kms/keyapi"
	"github.com/rootvouch/rootvouch/kms/store"
	"github.com/rootvouch/rootvouch/pins"
)

// Volume is what is known of a volume. The zero Volume is of one that no leaf spoke of.
type Volume struct {
	store.Volume
	Writers store.Writers // of the record that counts
}

// Known reports whether anything is known.
func (v *Volume) Known() bool { return v.DiskUUID != (pins.UUID{}) }

// Register takes a change of the volume's records. A put of another header begins a new
// volume. Any other record that counts says how the volume is shared, and nothing of what it
// holds.
func (v *Volume) Register(event audit.Event, about audit.AboutChange, now time.Time) {
	if about.Writers == "" {
		return // of a disk
	}
	same := v.Known() && v.Header == about.Header
	switch {
	case !same && event == audit.Put:
		v.Volume = store.NewVolume(pins.Header{DiskUUID: about.Disk, HeaderSHA256: about.Header}, now)
	case !same || event == audit.Stage || event == audit.Withdraw || event == audit.Purge || event == audit.Delete:
		return // it does not count now
	}
	v.Writers = store.Writers(about.Writers)
}

// Open takes a release of the volume's key: its launch has the volume now. launch is its
// name, empty where the log has none.
func (v *Volume) Open(told audit.OpenedVolume, launch string, now time.Time) {
	v.State, v.Generation, v.Digest, v.Changed = store.VolumeOpen, told.Generation, told.Digest, now
	v.Holder, v.Launch, v.Found, v.Accepted = told.Holder, launch, told.Found, false
}

// Say takes a close, or the operator's word. A fork changes nothing.
func (v *Volume) Say(event audit.Event, about audit.AboutVolume, now time.Time) {
	if event == audit.VolumeFork {
		return
	}
	v.State, v.Generation, v.Digest, v.Changed = store.VolumeState(about.State), about.Generation, about.Digest, now
	v.Found, v.Accepted = 0, event == audit.VolumeAccept
	if event != audit.VolumeClose && event != audit.VolumeAccept {
		v.Holder, v.Launch = keyapi.Holder{}, ""
	}
}
