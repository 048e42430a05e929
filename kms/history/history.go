// Package history follows the records and the volumes of disks through the leaves of the log.
//
// It judges nothing: package replay compares what it says with what happened next, and
// package restore writes it into a book.
package history

import "github.com/rootvouch/rootvouch/kms/audit"

// Records are those of one disk, as the log has them. Leaves are not changed: what a leaf
// says of two records at once is in copies.
type Records struct {
	Current *audit.AboutChange // nil: there is none
	Staged  *audit.AboutChange // beside Current; nil: there is none
}

// Change takes the next change of the disk's records.
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
		if r.Staged != nil { // it follows
			staged := *r.Staged
			staged.State = about.State
			r.Staged = &staged
		}
	}
}
