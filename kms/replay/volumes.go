package replay

import (
	"fmt"

	"github.com/rootvouch/rootvouch/kms/audit"
	"github.com/rootvouch/rootvouch/kms/keyapi"
	"github.com/rootvouch/rootvouch/kms/store"
	"github.com/rootvouch/rootvouch/pins"
)

// volume is what the log says of a volume so far.
type volume struct {
	header     pins.Digest
	state      store.VolumeState
	generation uint64
	digest     pins.Digest
	holder     keyapi.Holder
	writers    string
}

// put begins a volume that is registered, unless it is one that is known. Another record of
// it that counts again says how it is shared, and nothing of what it holds.
func (j *Judge) put(event audit.Event, about audit.AboutChange) {
	if about.Writers == "" {
		return
	}
	v, known := j.volumes[about.Disk]
	same := known && v.header == about.Header
	switch {
	case !same && event == audit.Put:
		v = volume{header: about.Header, state: store.VolumeNew}
	case !same || event == audit.Stage || event == audit.Withdraw || event == audit.Purge || event == audit.Delete:
		return // it does not count now
	}
	v.writers = about.Writers
	j.volumes[about.Disk] = v
}

// opened holds what a launch was told of a volume against what the log has said.
func (j *Judge) opened(leaf audit.Leaf, about audit.AboutRelease) error {
	v, known := j.volumes[about.Disk]
	told := about.Volume
	isVolume := known && j.disks[about.Disk].current.Writers != ""
	switch {
	case isVolume != (told != nil):
		return fmt.Errorf("disk %s is a volume: %t, and something was told of one: %t", about.Disk, isVolume, told != nil)
	case told == nil:
		return nil
	case told.Generation != v.generation || told.Digest != v.digest:
		return fmt.Errorf("volume %s was told to be generation %d, digest %s, want %d, %s", about.Disk, told.Generation, told.Digest, v.generation, v.digest)
	case leaf.Event == audit.ReleaseAgain && (v.state != store.VolumeOpen || v.holder != told.Holder):
		return fmt.Errorf("volume %s: a launch that has it no more was answered again", about.Disk)
	case leaf.Event == audit.ReleaseAgain:
		return nil
	case v.state == store.VolumeRetired:
		return fmt.Errorf("volume %s is retired", about.Disk)
	case v.state == store.VolumeOpen && v.writers != string(store.Takeover):
		return fmt.Errorf("volume %s was open, and its writers are %s", about.Disk, v.writers)
	case (told.Found == keyapi.FoundNew) != (v.state == store.VolumeNew):
		return fmt.Errorf("volume %s was told to be %v, and is %s", about.Disk, told.Found, v.state)
	case told.Found == keyapi.FoundClosed && v.state != store.VolumeClosed:
		return fmt.Errorf("volume %s was told to be closed, and is %s", about.Disk, v.state)
	}
	v.state, v.holder = store.VolumeOpen, told.Holder
	j.volumes[about.Disk] = v
	return nil
}

// said takes a close, or the operator's word.
func (j *Judge) said(event audit.Event, about audit.AboutVolume) error {
	v, known := j.volumes[about.Disk]
	if !known {
		return fmt.Errorf("volume %s has no record", about.Disk)
	}
	switch event {
	case audit.VolumeFork:
		return nil // nothing changes
	case audit.VolumeClose:
		if v.state != store.VolumeOpen || v.holder != about.Holder || about.Generation != v.generation+1 {
			return fmt.Errorf("volume %s, %s with generation %d and holder %s, was closed as generation %d by %s",
				about.Disk, v.state, v.generation, v.holder, about.Generation, about.Holder)
		}
	}
	v.state, v.generation, v.digest = store.VolumeState(about.State), about.Generation, about.Digest
	j.volumes[about.Disk] = v
	return nil
}
