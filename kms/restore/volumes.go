package restore

import (
	"errors"
	"fmt"

	"github.com/rootvouch/rootvouch/kms/audit"
	"github.com/rootvouch/rootvouch/kms/keyapi"
	"github.com/rootvouch/rootvouch/kms/store"
	"github.com/rootvouch/rootvouch/pins"
)

// volume is what is known of a volume, up to here; it begins with what the backup has. Where
// nothing is known, the UUID is absent.
func (r *restorer) volume(disk pins.UUID) (*store.Volume, error) {
	if v := r.volumes[disk]; v != nil {
		return v, nil
	}
	v, err := r.s.Volume(r.ctx, disk)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	r.volumes[disk] = &v
	return &v, nil
}

// registered begins a volume that was registered, unless it is one that is known.
func (r *restorer) registered(leaf audit.Leaf, about audit.AboutChange) error {
	if about.Writers == "" || leaf.Event != audit.Put {
		return nil
	}
	v, err := r.volume(about.Disk)
	if err != nil {
		return err
	}
	if v.Header != about.Header {
		*v = store.NewVolume(pins.Header{DiskUUID: about.Disk, HeaderSHA256: about.Header}, leaf.Time)
	}
	return nil
}

// opened gives a volume to the launch that got its key.
func (r *restorer) opened(leaf audit.Leaf, about audit.AboutRelease) error {
	told := about.Volume
	if told == nil {
		return nil
	}
	v, err := r.volume(about.Disk)
	if err != nil {
		return err
	}
	launch := ""
	if about.Proof != nil { // else the log has no name for it
		launch = store.Launch{ReportID: about.ReportID}.String()
	}
	v.State, v.Generation, v.Digest, v.Changed = store.VolumeOpen, told.Generation, told.Digest, leaf.Time
	v.Holder, v.Launch, v.Found, v.Accepted = told.Holder, launch, told.Found, false
	return nil
}

// said takes a close, or the operator's word.
func (r *restorer) said(leaf audit.Leaf, about audit.AboutVolume) error {
	if leaf.Event == audit.VolumeFork {
		return nil // nothing changed
	}
	v, err := r.volume(about.Disk)
	if err != nil {
		return err
	}
	v.State, v.Generation, v.Digest, v.Changed = store.VolumeState(about.State), about.Generation, about.Digest, leaf.Time
	v.Found, v.Accepted = 0, leaf.Event == audit.VolumeAccept
	if leaf.Event != audit.VolumeClose && leaf.Event != audit.VolumeAccept {
		v.Holder, v.Launch = keyapi.Holder{}, ""
	}
	return nil
}

// settleVolumes writes what became of the volumes.
func (r *restorer) settleVolumes() error {
	for disk, v := range r.volumes {
		item, err := r.s.SetVolume(*v)
		if err != nil {
			return fmt.Errorf("volume %s: %w", disk, err)
		}
		if err := r.commit(item); err != nil {
			return err
		}
	}
	return nil
}
