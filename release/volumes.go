package release

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"

	"github.com/rootvouch/rootvouch/kms/adminapi"
	"github.com/rootvouch/rootvouch/luks2"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/refval"
	"github.com/rootvouch/rootvouch/snp"
	"github.com/rootvouch/rootvouch/volume"
)

// A volume has one record, whatever releases mount it. The record accepts the launch
// digests of those that are live, by the reference values of the one that was applied last.

// ErrNoVolumeKey says that the key server lacks a volume's key, and that none that was
// given opens it.
var ErrNoVolumeKey = errors.New("the key server has no record of the volume, and no key that was given makes its header")

// planVolumes gives a release the keys of its volumes. stays are the other releases that
// stay live.
func (s Site) planVolumes(ctx context.Context, r *Release, stays map[string]refval.Values) ([]Step, error) {
	var steps []Step
	for _, v := range r.Manifest.Volumes {
		have, err := s.volumeRecord(ctx, v.DiskUUID)
		if err != nil {
			return nil, err
		}
		if have == nil {
			steps = append(steps, Step{fmt.Sprintf("register the key of volume %s with the key server", v.DiskUUID), func(ctx context.Context) error {
				return s.putVolume(ctx, r, v)
			}})
			continue
		}
		if have.SPIFFEID != r.Manifest.SPIFFEID || have.Header != v.Header || have.Volume == nil || have.Evidence != adminapi.EvidenceRequired {
			return nil, fmt.Errorf("the key server's record of volume %s is another than release %s wants: it is for %s, header SHA-256 %s", v.DiskUUID, r.Manifest.Release, have.SPIFFEID, have.HeaderSHA256)
		}
		if want := (adminapi.VolumePolicy{Writers: v.Writers, Unclean: v.Unclean}); *have.Volume != want {
			return nil, fmt.Errorf("the key server's record of volume %s has writers %s and unclean %s, and vm.json has %s and %s: \"rootvouch keys volume put --replace\" changes them",
				v.DiskUUID, have.Volume.Writers, have.Volume.Unclean, want.Writers, want.Unclean)
		}
		if have.State == "disabled" {
			return nil, fmt.Errorf("the key server's record of volume %s is disabled: \"rootvouch keys enable\" lets it be released", v.DiskUUID)
		}
		update := func(ctx context.Context) error { return s.openVolume(ctx, r, v, stays) }
		_, changes, err := openTo(have, r, stays)
		if err != nil {
			return nil, err
		}
		if changes || have.State == "retired" {
			steps = append(steps, Step{fmt.Sprintf("let launches of release %s have the key of volume %s", r.Manifest.Release, v.DiskUUID), update})
		}
	}
	return steps, nil
}

// volumeRecord is the key server's, or nil.
func (s Site) volumeRecord(ctx context.Context, id pins.UUID) (*adminapi.Record, error) {
	have, err := s.KMS.Get(ctx, id)
	if refused, ok := errors.AsType[*adminapi.Error](err); ok && refused.Status == http.StatusNotFound {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("asking for the record of volume %s: %w", id, err)
	}
	return &have, nil
}

// volumeValues are a release's reference values without the pins of its root: a volume
// outlives that.
func volumeValues(r *Release) refval.Values {
	v := r.Values
	v.Pins = refval.Any[pins.Pins]()
	return v
}

// openTo returns the reference values with which a volume's record accepts a release
// beside those of its present ones that stay, and whether that changes it.
func openTo(have *adminapi.Record, r *Release, stays map[string]refval.Values) ([]byte, bool, error) {
	now, err := refval.Decode(have.ReferenceValues)
	if err != nil {
		return nil, false, fmt.Errorf("reading the record of volume %s: %w", have.DiskUUID, err)
	}
	want := volumeValues(r)
	want.Measurements = slices.Clone(want.Measurements)
	for _, m := range now.Measurements {
		if !accepts(want, m.Digest) && acceptedBy(stays, m.Digest) {
			want.Measurements = append(want.Measurements, m)
		}
	}
	before, err := now.Encode()
	if err != nil {
		return nil, false, err
	}
	text, err := want.Encode()
	return text, !bytes.Equal(before, text), err
}

func accepts(v refval.Values, d snp.Measurement) bool {
	return slices.ContainsFunc(v.Measurements, func(m refval.Measurement) bool { return m.Digest == d })
}

func acceptedBy(all map[string]refval.Values, d snp.Measurement) bool {
	for _, v := range all {
		if accepts(v, d) {
			return true
		}
	}
	return false
}

// openVolume carries out what planVolumes found, by the record as it is then.
func (s Site) openVolume(ctx context.Context, r *Release, v Mounted, stays map[string]refval.Values) error {
	have, err := s.volumeRecord(ctx, v.DiskUUID)
	if err != nil {
		return err
	}
	if have == nil {
		return fmt.Errorf("the record of volume %s is gone", v.DiskUUID)
	}
	text, changes, err := openTo(have, r, stays)
	if err != nil {
		return err
	}
	if changes {
		if _, err := s.KMS.Update(ctx, v.DiskUUID, adminapi.Update{ReferenceValues: text}); err != nil {
			return err
		}
	}
	if have.State == "retired" {
		_, err = s.KMS.Revive(ctx, v.DiskUUID)
	}
	return err
}

// putVolume registers a volume with the key that makes its header.
func (s Site) putVolume(ctx context.Context, r *Release, v Mounted) error {
	if s.VolumeKeys == nil {
		return ErrNoVolumeKey
	}
	keys, err := s.VolumeKeys()
	defer func() {
		for _, key := range keys {
			clear(key)
		}
	}()
	if err != nil {
		return err
	}
	for _, key := range keys {
		header, err := volume.Header([luks2.PassphraseSize]byte(key), v.DiskUUID)
		if err != nil {
			return err
		}
		if pins.Digest(sha256.Sum256(header)) != v.HeaderSHA256 {
			continue
		}
		text, err := volumeValues(r).Encode()
		if err != nil {
			return err
		}
		return s.noted(s.KMS.Put(ctx, adminapi.Put{
			Header: v.Header, SPIFFEID: r.Manifest.SPIFFEID, Evidence: adminapi.EvidenceRequired, ReferenceValues: text, SameVM: true,
			Volume: &adminapi.VolumePolicy{Writers: v.Writers, Unclean: v.Unclean},
		}, key))
	}
	return ErrNoVolumeKey
}

// planCloseVolumes takes a release that is retired off all volumes whose records accept its
// launch digests. A record that no release is left for is retired; what the volume holds
// stays known. A record that is disabled counts too: it may be enabled again.
func (s Site) planCloseVolumes(ctx context.Context, release string, values refval.Values) ([]Step, error) {
	var steps []Step
	var seen []pins.UUID
	for _, m := range values.Measurements {
		for q := (adminapi.Query{Measurement: m.Digest, Limit: adminapi.MaxPage}); ; {
			page, err := s.KMS.Page(ctx, q)
			if err != nil {
				return nil, fmt.Errorf("asking for volumes of release %s: %w", release, err)
			}
			for _, have := range page.Records {
				if have.Volume == nil || have.State == "retired" || slices.Contains(seen, have.DiskUUID) {
					continue
				}
				seen = append(seen, have.DiskUUID)
				steps = append(steps, Step{fmt.Sprintf("keep launches of release %s from the key of volume %s", release, have.DiskUUID), func(ctx context.Context) error {
					return s.closeVolume(ctx, have.DiskUUID, values)
				}})
			}
			if page.Next == (pins.UUID{}) {
				break
			}
			q.After = page.Next
		}
	}
	return steps, nil
}

// closeVolume takes launch digests off a volume's record.
func (s Site) closeVolume(ctx context.Context, id pins.UUID, gone refval.Values) error {
	have, err := s.volumeRecord(ctx, id)
	if err != nil || have == nil || have.State == "retired" {
		return err
	}
	values, err := refval.Decode(have.ReferenceValues)
	if err != nil {
		return fmt.Errorf("reading the record of volume %s: %w", id, err)
	}
	before := len(values.Measurements)
	values.Measurements = slices.DeleteFunc(slices.Clone(values.Measurements), func(m refval.Measurement) bool { return accepts(gone, m.Digest) })
	switch len(values.Measurements) {
	case before:
		return nil
	case 0:
		_, err = s.KMS.Retire(ctx, id)
		return err
	}
	text, err := values.Encode()
	if err != nil {
		return err
	}
	_, err = s.KMS.Update(ctx, id, adminapi.Update{ReferenceValues: text})
	return err
}

// CheckVolumes refuses images that are not the volumes of the release, each once: PID 1
// would wait for what is missing, and then power off.
func (r *Release) CheckVolumes(images []string) error {
	var errs []error
	given := map[pins.UUID]string{} // :: volume -> image
	for _, path := range images {
		v, err := r.volumeOf(path)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if other := given[v.DiskUUID]; other != "" {
			errs = append(errs, fmt.Errorf("%s and %s are both volume %s", other, path, v.DiskUUID))
		}
		given[v.DiskUUID] = path
	}
	for _, v := range r.Manifest.Volumes {
		if given[v.DiskUUID] == "" {
			errs = append(errs, fmt.Errorf("release %s mounts volume %s at %s, and no --volume is that one", r.Manifest.Release, v.DiskUUID, v.MountPoint))
		}
	}
	return errors.Join(errs...)
}

// volumeOf finds the volume that an image or device is, by its header and size.
func (r *Release) volumeOf(path string) (Mounted, error) {
	f, err := os.Open(path)
	if err != nil {
		return Mounted{}, err
	}
	defer f.Close()
	header := make([]byte, luks2.HeaderSize)
	if _, err := io.ReadFull(f, header); err != nil {
		return Mounted{}, fmt.Errorf("%s: reading the header of a volume: %w", path, err)
	}
	size, err := f.Seek(0, io.SeekEnd) // block devices have no size by stat
	if err != nil {
		return Mounted{}, err
	}
	for _, v := range r.Manifest.Volumes {
		if v.HeaderSHA256 != sha256.Sum256(header) {
			continue
		}
		if uint64(size) != v.Size {
			return v, fmt.Errorf("%s has %d bytes, want the %d of volume %s", path, size, v.Size, v.DiskUUID)
		}
		return v, nil
	}
	return Mounted{}, fmt.Errorf("%s is no volume of release %s", path, r.Manifest.Release)
}
