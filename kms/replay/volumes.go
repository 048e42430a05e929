package replay

import (
	"fmt"

	"github.com/rootvouch/rootvouch/kms/audit"
	"github.com/rootvouch/rootvouch/kms/history"
	"github.com/rootvouch/rootvouch/kms/keyapi"
	"github.com/rootvouch/rootvouch/kms/store"
	"github.com/rootvouch/rootvouch/pins"
)

// volume returns what the log has said about a volume so far.
func (j *Judge) volume(disk pins.UUID) *history.Volume {
	if j.volumes[disk] == nil {
		j.volumes[disk] = &history.Volume{}
	}
	return j.volumes[disk]
}

// opened compares what a launch was told about a volume with what the log has said.
func (j *Judge) opened(leaf audit.Leaf, about audit.AboutRelease) error {
	v, told := j.volume(about.Disk), about.Volume
	isVolume := v.Known() && j.disk(about.Disk).Current.Writers != ""
	switch {
	case isVolume != (told != nil):
		return fmt.Errorf("disk %s is a volume: %t, but the leaf describes one: %t", about.Disk, isVolume, told != nil)
	case told == nil:
		return nil
	case told.Generation != v.Generation || told.Digest != v.Digest:
		return fmt.Errorf("volume %s: the launch was told generation %d, digest %s, want %d, %s", about.Disk, told.Generation, told.Digest, v.Generation, v.Digest)
	case leaf.Event == audit.ReleaseAgain && (v.State != store.VolumeOpen || v.Holder != told.Holder):
		return fmt.Errorf("volume %s: a launch that no longer has it was answered again", about.Disk)
	case leaf.Event == audit.ReleaseAgain:
		return nil
	case v.State == store.VolumeRetired:
		return fmt.Errorf("volume %s is retired", about.Disk)
	case v.State == store.VolumeOpen && v.Writers != store.Takeover:
		return fmt.Errorf("volume %s was open, and its policy for writers is %s", about.Disk, v.Writers)
	case (told.Found == keyapi.FoundNew) != (v.State == store.VolumeNew):
		return fmt.Errorf("volume %s: the launch was told %v, but the state is %s", about.Disk, told.Found, v.State)
	case told.Found == keyapi.FoundClosed && v.State != store.VolumeClosed:
		return fmt.Errorf("volume %s: the launch was told that it is closed, but the state is %s", about.Disk, v.State)
	}
	v.Open(*told, "", leaf.Time)
	return nil
}

// said applies a close or an operator's word.
func (j *Judge) said(leaf audit.Leaf, about audit.AboutVolume) error {
	v := j.volume(about.Disk)
	switch {
	case !v.Known():
		return fmt.Errorf("volume %s has no record", about.Disk)
	case leaf.Event == audit.VolumeClose && (v.State != store.VolumeOpen || v.Holder != about.Holder || about.Generation != v.Generation+1):
		return fmt.Errorf("volume %s, %s with generation %d and holder %s, was closed as generation %d by %s",
			about.Disk, v.State, v.Generation, v.Holder, about.Generation, about.Holder)
	}
	v.Say(leaf.Event, about, leaf.Time)
	return nil
}
