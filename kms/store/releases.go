package store

import (
	"bytes"
	"fmt"

	"go.etcd.io/bbolt"

	"github.com/rootvouch/rootvouch/kms/audit"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/snp"
)

// FindRelease returns the release of a disk's key to the launch with a REPORT_ID, if
// there was one.
func (s *Store) FindRelease(disk pins.UUID, reportID snp.ReportID) (r Release, found bool, err error) {
	err = s.db.View(func(tx *bbolt.Tx) error {
		data := tx.Bucket([]byte(bucketReleases)).Get(Release{Disk: disk, ReportID: reportID}.id())
		if data == nil {
			return nil
		}
		found = true
		r, err = decodeRelease(data)
		return err
	})
	return r, found, err
}

// Releases returns all releases of a disk's key, by REPORT_ID.
func (s *Store) Releases(disk pins.UUID) ([]Release, error) {
	var all []Release
	err := s.db.View(func(tx *bbolt.Tx) error {
		cursor := tx.Bucket([]byte(bucketReleases)).Cursor()
		for k, v := cursor.Seek(disk[:]); bytes.HasPrefix(k, disk[:]); k, v = cursor.Next() {
			r, err := decodeRelease(v)
			if err != nil {
				return err
			}
			all = append(all, r)
		}
		return nil
	})
	return all, err
}

// AddReleases makes new releases durable, all or none, and head with them.
func (s *Store) AddReleases(all []Release, head audit.Head) error {
	return s.db.Update(func(tx *bbolt.Tx) error {
		bucket := tx.Bucket([]byte(bucketReleases))
		for _, r := range all {
			if bucket.Get(r.id()) != nil {
				return fmt.Errorf("adding a release: disk %s was released to launch %s before", r.Disk, r.ReportID)
			}
			if err := bucket.Put(r.id(), r.encode()); err != nil {
				return err
			}
		}
		return putHead(tx, head)
	})
}
