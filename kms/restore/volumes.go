package restore

import (
	"errors"
	"fmt"

	"github.com/rootvouch/rootvouch/kms/audit"
	"github.com/rootvouch/rootvouch/kms/history"
	"github.com/rootvouch/rootvouch/kms/store"
	"github.com/rootvouch/rootvouch/pins"
)

// volume returns the known state of a volume so far. It begins with the state in the backup.
func (r *restorer) volume(disk pins.UUID) (*history.Volume, error) {
	if v := r.volumes[disk]; v != nil {
		return v, nil
	}
	v, err := r.s.Volume(r.ctx, disk)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	r.volumes[disk] = &history.Volume{Volume: v}
	return r.volumes[disk], nil
}

// registered applies the records of a volume.
func (r *restorer) registered(leaf audit.Leaf, about audit.AboutChange) error {
	if about.Writers == "" {
		return nil
	}
	v, err := r.volume(about.Disk)
	if err != nil {
		return err
	}
	v.Register(leaf.Event, about, leaf.Time)
	return nil
}

// opened gives a volume to the launch that got its key.
func (r *restorer) opened(leaf audit.Leaf, about audit.AboutRelease) error {
	if about.Volume == nil {
		return nil
	}
	v, err := r.volume(about.Disk)
	if err != nil {
		return err
	}
	launch := ""
	if about.Proof != nil { // without a proof the log does not name the launch
		launch = store.Launch{ReportID: about.ReportID}.String()
	}
	v.Open(*about.Volume, launch, leaf.Time)
	return nil
}

// said applies a close or an operator's word.
func (r *restorer) said(leaf audit.Leaf, about audit.AboutVolume) error {
	v, err := r.volume(about.Disk)
	if err != nil {
		return err
	}
	v.Say(leaf.Event, about, leaf.Time)
	return nil
}

// settleVolumes writes the states of the volumes.
func (r *restorer) settleVolumes() error {
	for disk, v := range r.volumes {
		if !v.Known() {
			continue // only records that are not in force mention it
		}
		item, err := r.s.SetVolume(v.Volume)
		if err != nil {
			return fmt.Errorf("volume %s: %w", disk, err)
		}
		if err := r.commit(item); err != nil {
			return err
		}
	}
	return nil
}
