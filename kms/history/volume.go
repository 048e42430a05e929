package history

import (
	"time"

	"github.com/rootvouch/rootvouch/kms/audit"
	"github.com/rootvouch/rootvouch/kms/keyapi"
	"github.com/rootvouch/rootvouch/kms/store"
	"github.com/rootvouch/rootvouch/pins"
)

// Volume is the known state of a volume. The zero Volume is one that no leaf mentions.
type Volume struct {
	store.Volume
	Writers store.Writers // of the record in force
}

// Known reports whether a leaf has mentioned the volume.
func (v *Volume) Known() bool { return v.DiskUUID != (pins.UUID{}) }

// Register applies a change of the volume's records. A put with another header begins a new
// volume. Any other record in force changes how launches share the volume, but not its
// contents.
func (v *Volume) Register(event audit.Event, about audit.AboutChange, now time.Time) {
	if about.Writers == "" {
		return // the record of a disk
	}
	same := v.Known() && v.Header == about.Header
	switch {
	case !same && event == audit.Put:
		v.Volume = store.NewVolume(pins.Header{DiskUUID: about.Disk, HeaderSHA256: about.Header}, now)
	case !same || event == audit.Stage || event == audit.Withdraw || event == audit.Purge || event == audit.Delete:
		return // the record is not in force
	}
	v.Writers = store.Writers(about.Writers)
}

// Open applies a release of the volume's key: the launch now has the volume. launch is its
// name, empty if the log has none.
func (v *Volume) Open(told audit.OpenedVolume, launch string, now time.Time) {
	v.State, v.Generation, v.Digest, v.Changed = store.VolumeOpen, told.Generation, told.Digest, now
	v.Holder, v.Launch, v.Found, v.Accepted = told.Holder, launch, told.Found, false
}

// Say applies a close or an operator's word. A fork changes nothing.
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
