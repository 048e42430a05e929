// Package history follows the records and the volumes of disks through the leaves of the log.
//
// It judges nothing. Package replay compares its state with the next event. Package restore
// writes its state into a store.
package history

import "github.com/rootvouch/rootvouch/kms/audit"

// Records are the records of one disk, as the log shows them. Records never changes a leaf: it
// works on copies.
type Records struct {
	Current *audit.AboutChange // nil: no record
	Staged  *audit.AboutChange // beside Current; nil: no record
}

// Change applies the next change of the disk's records.
func (r *Records) Change(event audit.Event, about audit.AboutChange) {
	switch event {
	case audit.Put, audit.Restore, audit.Confirm:
		r.Current, r.Staged = &about, nil
	case audit.Delete:
		r.Current, r.Staged = nil, nil
	case audit.Stage:
		r.Staged = &about
	case audit.Withdraw:
		r.Staged = nil
	case audit.Update:
		r.Current = &about
	case audit.Enable, audit.Disable, audit.Retire:
		r.Current = &about
		if r.Staged != nil { // the staged record takes the same state
			staged := *r.Staged
			staged.State = about.State
			r.Staged = &staged
		}
	}
}
