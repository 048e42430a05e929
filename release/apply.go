package release

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/rootvouch/rootvouch/internal/durable"
	"github.com/rootvouch/rootvouch/kms/adminapi"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/refval"
)

// Entries is a release of a VM on the SPIRE server.
type Entries struct {
	Release string
	End     time.Time // when the server removes them; zero: never
	Count   int
}

// SPIREServer is what a rollout does with the entries of a VM on a SPIRE server. Each change
// may be repeated.
type SPIREServer interface {
	// Releases lists the releases of a VM that have entries.
	Releases(ctx context.Context, vm string) ([]Entries, error)
	// Missing tells how many entries of a release are not as they should be.
	Missing(ctx context.Context, r *Release, end time.Time) (int, error)
	// Make makes the entries of a release.
	Make(ctx context.Context, r *Release, end time.Time) error
	// SetEnd changes the end of the entries that a release has.
	SetEnd(ctx context.Context, vm, release string, end time.Time) error
	// Remove removes the entries of a release.
	Remove(ctx context.Context, vm, release string) error
}

// KeyServer is what a rollout does with records of a key server; *adminapi.Client is one.
type KeyServer interface {
	Get(ctx context.Context, disk pins.UUID) (adminapi.Record, error)
	Put(ctx context.Context, p adminapi.Put, key []byte) (adminapi.Record, error)
	Page(ctx context.Context, q adminapi.Query) (adminapi.Records, error)
	Update(ctx context.Context, disk pins.UUID, u adminapi.Update) (adminapi.Record, error)
	Retire(ctx context.Context, disk pins.UUID) (adminapi.Record, error)
	Revive(ctx context.Context, disk pins.UUID) (adminapi.Record, error)
}

// Site is the place to which a release is rolled out.
type Site struct {
	SPIRE     SPIREServer
	KMS       KeyServer
	RefvalDir string // of the SPIRE server's plugin
	Now       time.Time
	// Key returns the disk's key, and is asked only where the key server has no
	// record of the disk. The key is wiped after use. Nil: there is none.
	Key func() ([]byte, error)
	// VolumeKeys returns keys of volumes, and is asked only where the key server has no
	// record of one. The keys are wiped after use. Nil: there are none.
	VolumeKeys func() ([][]byte, error)
	// Note is told what keeps a key from being released, though it is registered. May be nil.
	Note func(text string)
}

// Step is one difference, and the function that removes it. A repeated step changes nothing. An
// interrupted step is planned again.
type Step struct {
	What string
	do   func(context.Context) error
}

// ErrNoKey says that the key server lacks a disk's key, and that none was given.
var ErrNoKey = errors.New("the key server has no record of the disk, and no key was given")

// Apply carries out steps in order, and calls say before each.
func Apply(ctx context.Context, steps []Step, say func(string)) error {
	for _, s := range steps {
		if say != nil {
			say(s.What)
		}
		if err := s.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", s.What, err)
		}
	}
	return nil
}

// Target is the wanted state of a release.
type Target struct {
	// End is when it ends; zero: no end.
	End time.Time
	// OldEnd, if not nil, is when all other releases of the VM end that have no
	// earlier end; at once, if it has passed.
	OldEnd *time.Time
}

// Plan returns the steps that make a release live. The key server comes first and the entries
// last, so that a VM that attests finds its key.
func (s Site) Plan(ctx context.Context, r *Release, t Target) ([]Step, error) {
	steps, err := s.planRecord(ctx, r)
	if err != nil {
		return nil, err
	}
	others, stays, err := s.planOthers(ctx, r, t.OldEnd)
	if err != nil {
		return nil, err
	}
	volumes, err := s.planVolumes(ctx, r, stays)
	if err != nil {
		return nil, err
	}
	values, err := s.planValues(r)
	if err != nil {
		return nil, err
	}
	steps = append(append(steps, volumes...), values...)
	missing, err := s.SPIRE.Missing(ctx, r, t.End)
	if err != nil {
		return nil, err
	}
	if missing > 0 {
		what := fmt.Sprintf("make %d entries of release %s at the SPIRE server", missing, r.Manifest.Release)
		if !t.End.IsZero() {
			what += ", which end at " + t.End.Format(time.RFC3339)
		}
		steps = append(steps, Step{what, func(ctx context.Context) error { return s.SPIRE.Make(ctx, r, t.End) }})
	}
	return append(steps, others...), nil
}

// planRecord makes the key server's record that of the release.
func (s Site) planRecord(ctx context.Context, r *Release) ([]Step, error) {
	disk := r.Manifest.DiskUUID
	have, err := s.KMS.Get(ctx, disk)
	if refused, ok := errors.AsType[*adminapi.Error](err); ok && refused.Status == http.StatusNotFound {
		return []Step{{fmt.Sprintf("register the key of disk %s with the key server", disk), func(ctx context.Context) error { return s.put(ctx, r) }}}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("asking for the record of disk %s: %w", disk, err)
	}
	// The server keeps reference values in its own form.
	values, err := refval.Decode(have.ReferenceValues)
	if err != nil {
		return nil, fmt.Errorf("reading the record of disk %s: %w", disk, err)
	}
	encoded, err := values.Encode()
	if err != nil {
		return nil, err
	}
	if have.SPIFFEID != r.Manifest.SPIFFEID || have.Header != r.Pins.Header || have.Evidence != adminapi.EvidenceRequired || string(encoded) != string(r.Refval) {
		return nil, fmt.Errorf("the key server's record of disk %s is another than release %s wants: it is for %s", disk, r.Manifest.Release, have.SPIFFEID)
	}
	switch have.State {
	case "enabled":
		return nil, nil
	case "retired":
		return []Step{{fmt.Sprintf("revive the record of disk %s at the key server", disk), func(ctx context.Context) error {
			_, err := s.KMS.Revive(ctx, disk)
			return err
		}}}, nil
	}
	return nil, fmt.Errorf("the key server's record of disk %s is %s, and not by a retirement: \"rootvouch keys enable\" lets it be released", disk, have.State)
}

func (s Site) put(ctx context.Context, r *Release) error {
	if s.Key == nil {
		return ErrNoKey
	}
	key, err := s.Key()
	if err != nil {
		return err
	}
	defer clear(key)
	return s.noted(Register(ctx, s.KMS, r, key, ""))
}

// noted tells what the key server says of a record.
func (s Site) noted(record adminapi.Record, err error) error {
	if s.Note != nil {
		for _, note := range record.Notes {
			s.Note(note)
		}
	}
	return err
}

// Register gives a release's key to the key server. If the key server made the key, made is
// the key's name there, and no key is sent.
func Register(ctx context.Context, kms KeyServer, r *Release, key []byte, made string) (adminapi.Record, error) {
	if made != "" {
		key = nil
	}
	return kms.Put(ctx, adminapi.Put{
		Header: r.Pins.Header, SPIFFEID: r.Manifest.SPIFFEID, Evidence: adminapi.EvidenceRequired, ReferenceValues: r.Refval, MadeKey: made,
	}, key)
}

// valuesFile is where the SPIRE server's plugin reads a release's reference values.
func (s Site) valuesFile(vm, release string) string {
	return filepath.Join(s.RefvalDir, vm+"."+release+".json")
}

func (s Site) planValues(r *Release) ([]Step, error) {
	path := s.valuesFile(r.Manifest.Name, r.Manifest.Release)
	have, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if err == nil && sha256.Sum256(have) == r.Manifest.Files[RefvalFile].SHA256 {
		return nil, nil
	}
	return []Step{{"write " + path + " for the SPIRE server", func(context.Context) error {
		return durable.WriteFile(path, r.Refval, 0o644)
	}}}, nil
}

// planOthers gives the VM's other releases their end, and clears away what is left of
// those whose end has come. It returns those that stay as well.
func (s Site) planOthers(ctx context.Context, r *Release, end *time.Time) (steps []Step, stay map[string]refval.Values, err error) {
	vm := r.Manifest.Name
	live, err := s.SPIRE.Releases(ctx, vm)
	if err != nil {
		return nil, nil, err
	}
	var stays []string
	for _, e := range live {
		if e.Release == r.Manifest.Release {
			continue
		}
		ends := e.End
		if end != nil && (ends.IsZero() || end.Before(ends)) {
			ends = *end
		}
		if !ends.IsZero() && !ends.After(s.Now) {
			continue // cleared below
		}
		stays = append(stays, e.Release)
		if !ends.Equal(e.End) {
			steps = append(steps, Step{fmt.Sprintf("let release %s end at %s", e.Release, ends.UTC().Format(time.RFC3339)), func(ctx context.Context) error {
				return s.SPIRE.SetEnd(ctx, vm, e.Release, ends)
			}})
		}
	}
	known, err := s.Live(vm)
	if err != nil {
		return nil, nil, err
	}
	stay = map[string]refval.Values{}
	for _, release := range stays {
		stay[release] = known[release]
	}
	for _, e := range live {
		if _, ok := known[e.Release]; !ok {
			known[e.Release] = refval.Values{} // its file is gone; the entries are not
		}
	}
	for _, release := range sorted(known) {
		if release == r.Manifest.Release || slices.Contains(stays, release) {
			continue
		}
		more, err := s.clear(ctx, vm, release, known[release], live)
		if err != nil {
			return nil, nil, err
		}
		steps = append(steps, more...)
	}
	return steps, stay, nil
}

// Live returns the reference values of the VM's releases that the SPIRE server's
// plugin reads, by release.
func (s Site) Live(vm string) (map[string]refval.Values, error) {
	names, err := os.ReadDir(s.RefvalDir)
	if err != nil {
		return nil, fmt.Errorf("reading the SPIRE server's reference values: %w", err)
	}
	found := map[string]refval.Values{}
	for _, n := range names {
		release, ok := strings.CutPrefix(n.Name(), vm+".")
		release, isJSON := strings.CutSuffix(release, ".json")
		if !ok || !isJSON || release == "" || strings.Contains(release, ".") {
			continue
		}
		path := filepath.Join(s.RefvalDir, n.Name())
		data, err := readSmall(path)
		if err != nil {
			return nil, err
		}
		if found[release], err = refval.Decode(data); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
	}
	return found, nil
}

// PlanRetire returns what takes a release away. Its entries go first: without them
// nobody gets its key. Its reference values, which name its disk, go last, so that a
// retirement that was cut short finds the rest again. The key stays with the key
// server, in a record that is retired.
func (s Site) PlanRetire(ctx context.Context, vm, release string) ([]Step, error) {
	live, err := s.SPIRE.Releases(ctx, vm)
	if err != nil {
		return nil, err
	}
	known, err := s.Live(vm)
	if err != nil {
		return nil, err
	}
	return s.clear(ctx, vm, release, known[release], live)
}

// clear returns the steps of a retirement. Values are zero where the SPIRE server has
// none of the release.
func (s Site) clear(ctx context.Context, vm, release string, values refval.Values, live []Entries) ([]Step, error) {
	var steps []Step
	if slices.ContainsFunc(live, func(e Entries) bool { return e.Release == release }) {
		steps = append(steps, Step{fmt.Sprintf("remove the entries of release %s at the SPIRE server", release), func(ctx context.Context) error {
			return s.SPIRE.Remove(ctx, vm, release)
		}})
	}
	if p, ok := values.Pins.Value(); ok {
		retire, err := s.planRetireRecord(ctx, p.DiskUUID)
		if err != nil {
			return nil, err
		}
		steps = append(steps, retire...)
	}
	if values.Version != 0 {
		off, err := s.planCloseVolumes(ctx, release, values)
		if err != nil {
			return nil, err
		}
		steps = append(steps, off...)
		path := s.valuesFile(vm, release)
		steps = append(steps, Step{"remove " + path, func(context.Context) error {
			if err := os.Remove(path); !errors.Is(err, os.ErrNotExist) {
				return err
			}
			return nil
		}})
	}
	return steps, nil
}

func (s Site) planRetireRecord(ctx context.Context, disk pins.UUID) ([]Step, error) {
	have, err := s.KMS.Get(ctx, disk)
	if refused, ok := errors.AsType[*adminapi.Error](err); ok && refused.Status == http.StatusNotFound {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("asking for the record of disk %s: %w", disk, err)
	}
	if have.State == "retired" {
		return nil, nil
	}
	return []Step{{fmt.Sprintf("retire the record of disk %s at the key server", disk), func(ctx context.Context) error {
		_, err := s.KMS.Retire(ctx, disk)
		return err
	}}}, nil
}

// PlanRollback returns what makes one release live again and retires another: the
// first is live before anything of the second goes.
func (s Site) PlanRollback(ctx context.Context, to *Release, from string) ([]Step, error) {
	if from == to.Manifest.Release {
		return nil, fmt.Errorf("rolling back: both releases are %s", from)
	}
	steps, err := s.Plan(ctx, to, Target{})
	if err != nil {
		return nil, err
	}
	retire, err := s.PlanRetire(ctx, to.Manifest.Name, from)
	return append(steps, retire...), err
}

func sorted(m map[string]refval.Values) []string { return slices.Sorted(maps.Keys(m)) }
