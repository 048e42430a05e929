package admin

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/rootvouch/rootvouch/internal/strictjson"
	"github.com/rootvouch/rootvouch/kms/adminapi"
	"github.com/rootvouch/rootvouch/kms/audit"
	"github.com/rootvouch/rootvouch/kms/ledger"
	"github.com/rootvouch/rootvouch/kms/store"
	"github.com/rootvouch/rootvouch/pins"
)

// update changes the reference values or bounds that a record accepts.
func (a *Admin) update(by audit.Actor, r *http.Request) (any, error) {
	disk, err := diskOf(r)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, fmt.Errorf("%w: reading the update: %v", errInvalid, err)
	}
	var u adminapi.Update
	if err := strictjson.Unmarshal(data, &u); err != nil {
		return nil, fmt.Errorf("%w: decoding the update: %v", errInvalid, err)
	}
	switch {
	case u.Version != adminapi.Version:
		return nil, fmt.Errorf("%w: version is %d, want %d", errInvalid, u.Version, adminapi.Version)
	case u.ReferenceValues == nil && u.MaxReleases == nil:
		return nil, fmt.Errorf("%w: the update has nothing to change", errInvalid)
	case u.ReferenceValues == nil && (u.KeepBefore != 0 || u.ChangeRootOfTrust):
		return nil, fmt.Errorf("%w: keep_before_seconds and change_root_of_trust go with reference_values", errInvalid)
	}
	if u.ReferenceValues != nil {
		record, err := a.ledger.Records.Get(r.Context(), disk)
		if err != nil {
			return nil, err
		}
		if err := checkValues(u.ReferenceValues, record); err != nil {
			return nil, fmt.Errorf("%w: %v", errInvalid, err)
		}
	}
	err = a.ledger.Update(r.Context(), by, disk, ledger.Update{
		Values: u.ReferenceValues, KeepBefore: time.Duration(u.KeepBefore) * time.Second,
		RootOfTrust: u.ChangeRootOfTrust, MaxReleases: u.MaxReleases,
	})
	return a.shown(r.Context(), disk, err)
}

// shown returns a disk's record after a change.
func (a *Admin) shown(ctx context.Context, disk pins.UUID, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	record, err := a.ledger.Records.Get(ctx, disk)
	if err != nil {
		return nil, err
	}
	return a.view(ctx, record), nil
}

// change makes a handler for a change that needs only the disk.
func (a *Admin) change(do func(*ledger.Ledger, context.Context, audit.Actor, pins.UUID) error) handle {
	return func(by audit.Actor, r *http.Request) (any, error) {
		disk, err := diskOf(r)
		if err != nil {
			return nil, err
		}
		return a.shown(r.Context(), disk, do(a.ledger, r.Context(), by, disk))
	}
}

func (a *Admin) setState(state store.State) handle {
	return a.change(func(l *ledger.Ledger, ctx context.Context, by audit.Actor, disk pins.UUID) error {
		return l.SetState(ctx, by, disk, state)
	})
}

// changeOf makes a handler for a change of one generation.
func (a *Admin) changeOf(do func(*ledger.Ledger, context.Context, audit.Actor, pins.UUID, uint64) error) handle {
	return func(by audit.Actor, r *http.Request) (any, error) {
		generation, err := generationOf(r)
		if err != nil {
			return nil, err
		}
		return a.change(func(l *ledger.Ledger, ctx context.Context, by audit.Actor, disk pins.UUID) error {
			return do(l, ctx, by, disk, generation)
		})(by, r)
	}
}

func (a *Admin) delete(by audit.Actor, r *http.Request) (any, error) {
	disk, err := diskOf(r)
	if err != nil {
		return nil, err
	}
	return struct{}{}, a.ledger.Delete(r.Context(), by, disk)
}

func (a *Admin) purge(by audit.Actor, r *http.Request) (any, error) {
	disk, err := diskOf(r)
	if err != nil {
		return nil, err
	}
	generation, err := generationOf(r)
	if err != nil {
		return nil, err
	}
	early, err := strconv.ParseBool(r.URL.Query().Get("early"))
	if err != nil {
		return nil, fmt.Errorf("%w: early: %v", errInvalid, err)
	}
	n, err := a.ledger.Purge(r.Context(), by, disk, generation, early)
	return adminapi.Purged{Version: adminapi.Version, Records: n}, err
}

// rewrap seals some secrets again. It refuses if a live server could not open them afterwards,
// because that server could release no key.
func (a *Admin) rewrap(by audit.Actor, r *http.Request) (any, error) {
	if a.Lack != nil {
		if lack := a.Lack(a.ledger.Records.KEK()); len(lack) > 0 {
			return nil, fmt.Errorf("%w: replicas %q have no key-encryption key %q: add it to their configuration and restart them",
				ledger.ErrConflict, lack, a.ledger.Records.KEK())
		}
	}
	n, next, err := a.ledger.Rewrap(r.Context(), by, r.URL.Query().Get("after"))
	if err != nil {
		return nil, err
	}
	reply := adminapi.Rewrapped{Version: adminapi.Version, KEK: a.ledger.Records.KEK(), Sealed: n, Next: next, InUse: []string{}}
	if next == "" {
		reply.InUse, err = a.ledger.Forget(r.Context(), by)
	}
	return reply, err
}

// generationOf reads the query's generation.
func generationOf(r *http.Request) (uint64, error) {
	n, err := strconv.ParseUint(r.URL.Query().Get("generation"), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%w: generation: %v", errInvalid, err)
	}
	return n, nil
}
