// Package admin lets the key server's owner register, see and withdraw records over a unix
// socket.
//
// A peer may do what its role allows. No role may read a registered key: the server shows only a
// key that it makes, once. Before a change takes effect, the change and its author are on the log.
package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/rootvouch/rootvouch/internal/strictjson"
	"github.com/rootvouch/rootvouch/kms/adminapi"
	"github.com/rootvouch/rootvouch/kms/audit"
	"github.com/rootvouch/rootvouch/kms/ledger"
	"github.com/rootvouch/rootvouch/kms/publish"
	"github.com/rootvouch/rootvouch/kms/store"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/refval"
)

// Time limits.
const (
	requestTimeout = 30 * time.Second
	shutdownGrace  = 10 * time.Second
)

// Admin answers on an admin socket.
type Admin struct {
	id     spiffeid.ID // of the key server itself
	ledger *ledger.Ledger
	log    func() publish.State // the state of the transparency log
	notes  *slog.Logger
	gists  gists

	// Watch reads the state of the rest of the server.
	Watch Watch
	// Recipients are the age recipients to which keys may be exported.
	Recipients Recipients
	// Lack lists the other live servers of this store that cannot open secrets sealed under a
	// key-encryption key. Lack is nil if this server is the only one.
	Lack func(kek string) []string
}

// New makes an Admin for the server with the SPIFFE ID id.
func New(id spiffeid.ID, l *ledger.Ledger, log func() publish.State, notes *slog.Logger) *Admin {
	return &Admin{id: id, ledger: l, log: log, notes: notes}
}

// Serve answers on a listener from Listen, which it closes, until ctx is done.
func (a *Admin) Serve(ctx context.Context, l net.Listener) error {
	server := &http.Server{
		Handler:           a.handler(),
		ReadHeaderTimeout: requestTimeout,
		ReadTimeout:       requestTimeout,
		WriteTimeout:      requestTimeout,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, peerKey{}, c.(peer))
		},
		ErrorLog: slog.NewLogLogger(a.notes.Handler(), slog.LevelWarn),
	}
	stopped := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		grace, cancel := context.WithTimeout(context.Background(), shutdownGrace)
		defer cancel()
		stopped <- server.Shutdown(grace)
	})
	err := server.Serve(l)
	if stop() {
		return fmt.Errorf("serving admin socket: %w", err)
	}
	return <-stopped
}

type peerKey struct{}

// handle answers a request from a peer whose role allows it.
type handle func(by audit.Actor, r *http.Request) (any, error)

func (a *Admin) handler() http.Handler {
	mux := http.NewServeMux()
	disk := adminapi.PathDisks + "/{uuid}"
	for _, route := range []struct {
		pattern string
		role    Role
		handle  handle
	}{
		{"GET " + adminapi.PathStatus, Read, a.status},
		{"GET " + adminapi.PathDisks, Read, a.list},
		{"GET " + adminapi.PathKept, Read, a.kept},
		{"GET " + disk, Read, a.get},
		{"GET " + disk + "/releases", Read, a.releases},
		{"GET " + disk + "/volume", Read, a.volume},
		{"POST " + disk + "/volume/{word}", Operate, a.sayVolume},
		{"PUT " + disk, Operate, a.put},
		{"POST " + disk + "/update", Operate, a.update},
		{"POST " + disk + "/enable", Operate, a.setState(store.Enabled)},
		{"POST " + disk + "/disable", Operate, a.setState(store.Disabled)},
		{"POST " + disk + "/retire", Operate, a.setState(store.Retired)},
		{"POST " + disk + "/revive", Operate, a.change((*ledger.Ledger).Revive)},
		{"POST " + disk + "/confirm", Operate, a.changeOf((*ledger.Ledger).Confirm)}, // the record that booted, and no later one
		{"POST " + disk + "/withdraw", Operate, a.change((*ledger.Ledger).Withdraw)},
		{"POST " + disk + "/restore", Operate, a.changeOf((*ledger.Ledger).Restore)},
		{"POST " + disk + "/purge", Destroy, a.purge},
		{"POST " + disk + "/export", Destroy, a.export},
		{"POST " + adminapi.PathRewrap, Destroy, a.rewrap},
		{"DELETE " + disk, Destroy, a.delete},
	} {
		mux.HandleFunc(route.pattern, a.serve(route.role, route.handle))
	}
	mux.HandleFunc("GET "+adminapi.PathPage, a.serveRaw(Read, func(w http.ResponseWriter, r *http.Request, _ audit.Actor) { a.page(w, r) }))
	mux.HandleFunc("POST "+adminapi.PathKeys, a.serveRaw(Operate, a.makeKey))
	mux.HandleFunc("GET "+adminapi.PathBackup, a.serveRaw(Operate, a.backup))
	return mux
}

var (
	// errInvalid marks a request that is malformed or contradicts itself.
	errInvalid = errors.New("invalid request")
	// errRole marks a request that the peer's role does not allow.
	errRole = errors.New("not allowed")
)

// statusOf is the one table from errors to HTTP statuses. The reply also has the error's text,
// because the reader is the owner.
func statusOf(err error) int {
	for _, row := range []struct {
		err    error
		status int
	}{
		{errInvalid, http.StatusBadRequest},
		{errRole, http.StatusForbidden},
		{store.ErrNotFound, http.StatusNotFound},
		{store.ErrNotMade, http.StatusNotFound},
		{ledger.ErrExists, http.StatusConflict},
		{store.ErrVolumeState, http.StatusConflict},
		{ledger.ErrOverlap, http.StatusConflict},
		{ledger.ErrRootOfTrust, http.StatusConflict},
		{ledger.ErrConflict, http.StatusConflict},
	} {
		if errors.Is(err, row.err) {
			return row.status
		}
	}
	return http.StatusServiceUnavailable
}

// admit returns the caller if the caller's role allows the request.
func admit(role Role, r *http.Request) (audit.Actor, error) {
	p, ok := r.Context().Value(peerKey{}).(peer)
	if !ok {
		panic("admin: internal error: a request without a peer")
	}
	by := audit.Actor{Name: p.name, Ticket: r.Header.Get(adminapi.TicketHeader)}
	if err := adminapi.CheckTicket(by.Ticket); err != nil {
		return by, fmt.Errorf("%w: %v", errInvalid, err)
	}
	if p.role < role {
		return by, fmt.Errorf("%w: %s has the role %q, want %q", errRole, p.name, p.role, role)
	}
	return by, nil
}

// serve answers with one JSON document.
func (a *Admin) serve(role Role, handle handle) http.HandlerFunc {
	return a.serveRaw(role, func(w http.ResponseWriter, r *http.Request, by audit.Actor) {
		reply, err := handle(by, r)
		if err != nil {
			a.fail(w, r, by, err)
			return
		}
		answer(w, http.StatusOK, reply)
	})
}

// serveRaw lets handle write the answer itself, for a peer whose role allows the request.
func (a *Admin) serveRaw(role Role, handle func(http.ResponseWriter, *http.Request, audit.Actor)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, adminapi.MaxDocument+1024)
		by, err := admit(role, r)
		if err != nil {
			a.fail(w, r, by, err)
			return
		}
		handle(w, r, by)
	}
}

func (a *Admin) fail(w http.ResponseWriter, r *http.Request, by audit.Actor, err error) {
	a.notes.Warn("admin", "actor", by.Name, "method", r.Method, "path", r.URL.Path, "err", err)
	answer(w, statusOf(err), adminapi.Failure{Version: adminapi.Version, Error: err.Error()})
}

func answer(w http.ResponseWriter, status int, reply any) {
	data, err := json.Marshal(reply)
	if err != nil {
		panic("admin: internal error: " + err.Error())
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(data)
}

func (a *Admin) status(_ audit.Actor, r *http.Request) (any, error) {
	state := a.log()
	count, err := a.ledger.Records.Count(r.Context())
	return adminapi.Status{
		Version: adminapi.Version, SPIFFEID: a.id.String(), LogKey: a.ledger.Records.LogPublic(), Records: count, KEK: a.ledger.Records.KEK(),
		LogSize: uint64(state.Tree.Size), Checkpoint: string(state.Checkpoint), Published: state.At.UTC(),
	}, err
}

func (a *Admin) get(_ audit.Actor, r *http.Request) (any, error) {
	disk, err := diskOf(r)
	if err != nil {
		return nil, err
	}
	ctx, reply := r.Context(), adminapi.Record{}
	current, staged, err := a.ledger.Records.Both(ctx, disk)
	kept, keptErr := a.ledger.Records.KeptOf(ctx, disk)
	switch {
	case errors.Is(err, store.ErrNotFound) && len(kept) > 0: // the record was deleted
		last := ledger.LastKept(kept)
		deleted := kept[last]
		current, kept = &deleted, slices.Delete(kept, last, last+1)
	case err != nil:
		return nil, err
	}
	if keptErr != nil {
		return nil, keptErr
	}
	if current == nil {
		return nil, store.ErrNotFound
	}
	reply = a.view(ctx, *current)
	if staged != nil {
		beside := a.view(ctx, *staged)
		reply.Staged = &beside
	}
	for _, r := range kept {
		reply.Before = append(reply.Before, a.view(ctx, r))
	}
	reply.ReferenceValues, err = a.ledger.Records.Values(ctx, *current)
	return reply, err
}

func (a *Admin) put(by audit.Actor, r *http.Request) (any, error) {
	document, key, err := adminapi.ReadPut(r.Body)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", errInvalid, err)
	}
	defer clear(key)
	var p adminapi.Put
	if err := strictjson.Unmarshal(document, &p); err != nil {
		return nil, fmt.Errorf("%w: decoding the record: %v", errInvalid, err)
	}
	disk, err := diskOf(r)
	if err != nil {
		return nil, err
	}
	record, err := a.build(p, disk, key)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", errInvalid, err)
	}
	how := ledger.Replace{Record: p.Replace, Beside: p.Beside, RootOfTrust: p.ChangeRootOfTrust}
	if p.MadeKey != "" {
		record, err = a.ledger.PutMade(r.Context(), by, record, p.ReferenceValues, p.MadeKey, how)
	} else {
		record, err = a.ledger.Put(r.Context(), by, record, p.ReferenceValues, key, how)
	}
	if err != nil {
		return nil, err
	}
	view := a.view(r.Context(), record)
	view.Notes = a.lacks(p.ReferenceValues)
	return view, nil
}

// lacks lists what keeps a key from being released with these reference values.
func (a *Admin) lacks(text []byte) []string {
	values, err := refval.Decode(text)
	if err != nil || a.Watch.Lacks == nil {
		return nil // without required evidence there are none
	}
	return a.Watch.Lacks(values)
}

// build checks a put and makes a record from it.
func (a *Admin) build(p adminapi.Put, disk pins.UUID, key []byte) (store.Record, error) {
	id, err := spiffeid.FromString(p.SPIFFEID)
	if err != nil {
		return store.Record{}, fmt.Errorf("spiffe_id: %v", err)
	}
	switch {
	case p.Version != adminapi.Version:
		return store.Record{}, fmt.Errorf("version is %d, want %d", p.Version, adminapi.Version)
	case p.DiskUUID != disk:
		return store.Record{}, fmt.Errorf("disk_uuid is %s, want %s as in the path", p.DiskUUID, disk)
	case !id.MemberOf(a.id.TrustDomain()) || id.Path() == "":
		return store.Record{}, fmt.Errorf("spiffe_id is %s, want a workload of trust domain %s", id, a.id.TrustDomain())
	case (p.MadeKey == "") != (key != nil):
		return store.Record{}, errors.New("want either a key or the name of a key that the server has made")
	case p.MadeKey != "" && store.CheckMadeID(p.MadeKey) != nil:
		return store.Record{}, store.CheckMadeID(p.MadeKey)
	case p.MadeKey == "" && slices.Max(key) == 0:
		return store.Record{}, errors.New("key is all zero")
	case p.Replace && p.Beside:
		return store.Record{}, errors.New("replace and beside are both set, want one of them")
	case p.ChangeRootOfTrust && !p.Replace && !p.Beside:
		return store.Record{}, errors.New("change_root_of_trust is set but neither replace nor beside is: a new record has no root of trust to change")
	}
	if err := p.Header.Check(); err != nil {
		return store.Record{}, err
	}
	r := store.Record{Header: p.Header, SPIFFEID: id, SameVM: p.SameVM, MaxReleases: p.MaxReleases}
	if r.Volume, err = policyOf(p); err != nil {
		return store.Record{}, err
	}
	switch r.Evidence = store.EvidenceRule(p.Evidence); r.Evidence {
	case store.EvidenceNotRequired:
		if p.ReferenceValues != nil {
			return store.Record{}, errors.New("evidence is not required, so reference values would be unused")
		}
		return r, nil
	case store.EvidenceRequired:
		return r, checkValues(p.ReferenceValues, r)
	}
	return store.Record{}, fmt.Errorf("evidence is %q, want %q or %q", p.Evidence, store.EvidenceRequired, store.EvidenceNotRequired)
}

// checkValues compares the header pin of a record with the header pin in the reference values.
// For a volume the two differ: the reference values pin the header of the VM's root disk.
func checkValues(data []byte, r store.Record) error {
	values, err := refval.Decode(data)
	if err != nil {
		return err
	}
	header := r.Header
	if want, ok := values.Pins.Value(); ok && r.Volume == nil && want.Header != header {
		return fmt.Errorf("header pin is %s of disk %s, but the reference values have %s of disk %s: a rekeyed disk has new pins: make new reference values with them (refval new --pins)",
			header.HeaderSHA256, header.DiskUUID, want.HeaderSHA256, want.DiskUUID)
	}
	return nil
}

func (a *Admin) releases(_ audit.Actor, r *http.Request) (any, error) {
	disk, err := diskOf(r)
	if err != nil {
		return nil, err
	}
	all, err := a.ledger.Records.Leases(r.Context(), disk)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(all, func(x, y store.Lease) int { return x.Time.Compare(y.Time) })
	reply := adminapi.Releases{Version: adminapi.Version, Releases: []adminapi.Release{}}
	for _, x := range all {
		reply.Releases = append(reply.Releases, adminapi.Release{
			DiskUUID: disk, ReportID: x.ReportID, SPIFFEID: x.SPIFFEID.String(),
			Generation: x.Generation, Time: x.Time, Leaf: x.Leaf.String(),
		})
	}
	return reply, nil
}

func diskOf(r *http.Request) (pins.UUID, error) {
	disk, err := pins.ParseUUID(r.PathValue("uuid"))
	if err != nil {
		return pins.UUID{}, fmt.Errorf("%w: %v", errInvalid, err)
	}
	return disk, nil
}
