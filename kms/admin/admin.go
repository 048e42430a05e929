// Package admin lets the key server's owner register, see and withdraw records over a unix socket.
//
// Whoever the socket takes may do everything but read a key. Each change is on the
// audit log, with the peer's user ID, before it takes effect.
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
	"github.com/rootvouch/rootvouch/kms/ledger"
	"github.com/rootvouch/rootvouch/kms/publish"
	"github.com/rootvouch/rootvouch/kms/store"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/refval"
)

// Bounds in time.
const (
	requestTimeout = 30 * time.Second
	shutdownGrace  = 10 * time.Second
)

// allRecords bounds a list.
const allRecords = 100_000

// Admin answers on an admin socket.
type Admin struct {
	id     spiffeid.ID // the key server's own
	ledger *ledger.Ledger
	log    func() publish.State // where the transparency log stands
	notes  *slog.Logger
}

// New makes an Admin for the server with a SPIFFE ID.
func New(id spiffeid.ID, l *ledger.Ledger, log func() publish.State, notes *slog.Logger) *Admin {
	return &Admin{id, l, log, notes}
}

// Serve answers on a listener from Listen, which it closes, until ctx is done.
func (a *Admin) Serve(ctx context.Context, l net.Listener) error {
	server := &http.Server{
		Handler:           a.handler(),
		ReadHeaderTimeout: requestTimeout,
		ReadTimeout:       requestTimeout,
		WriteTimeout:      requestTimeout,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, actorKey{}, c.(peer).String())
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

type actorKey struct{}

func (a *Admin) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+adminapi.PathStatus, a.serve(a.status))
	mux.HandleFunc("GET "+adminapi.PathDisks, a.serve(a.list))
	mux.HandleFunc("GET "+adminapi.PathDisks+"/{uuid}", a.serve(a.get))
	mux.HandleFunc("PUT "+adminapi.PathDisks+"/{uuid}", a.serve(a.put))
	mux.HandleFunc("DELETE "+adminapi.PathDisks+"/{uuid}", a.serve(a.delete))
	mux.HandleFunc("POST "+adminapi.PathDisks+"/{uuid}/enable", a.serve(a.setState(store.Enabled)))
	mux.HandleFunc("POST "+adminapi.PathDisks+"/{uuid}/disable", a.serve(a.setState(store.Disabled)))
	mux.HandleFunc("GET "+adminapi.PathDisks+"/{uuid}/releases", a.serve(a.releases))
	return mux
}

// errInvalid says that a request cannot be meant.
var errInvalid = errors.New("invalid request")

// statusOf is the one table from errors to HTTP statuses. The owner gets the
// error's text as well.
func statusOf(err error) int {
	for _, row := range []struct {
		err    error
		status int
	}{
		{errInvalid, http.StatusBadRequest},
		{store.ErrNotFound, http.StatusNotFound},
		{ledger.ErrExists, http.StatusConflict},
		{ledger.ErrOverlap, http.StatusConflict},
		{ledger.ErrRootOfTrust, http.StatusConflict},
	} {
		if errors.Is(err, row.err) {
			return row.status
		}
	}
	return http.StatusServiceUnavailable
}

func (a *Admin) serve(handle func(actor string, r *http.Request) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		actor, ok := r.Context().Value(actorKey{}).(string)
		if !ok {
			panic("admin: internal error: a request without an actor")
		}
		r.Body = http.MaxBytesReader(w, r.Body, adminapi.MaxDocument+1024)
		reply, err := handle(actor, r)
		status := http.StatusOK
		if err != nil {
			a.notes.Warn("admin", "actor", actor, "method", r.Method, "path", r.URL.Path, "err", err)
			status, reply = statusOf(err), adminapi.Failure{Version: adminapi.Version, Error: err.Error()}
		}
		data, err := json.Marshal(reply)
		if err != nil {
			panic("admin: internal error: " + err.Error())
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		w.Write(data)
	}
}

func (a *Admin) status(string, *http.Request) (any, error) {
	state := a.log()
	return adminapi.Status{
		Version: adminapi.Version, SPIFFEID: a.id.String(), LogKey: a.ledger.Records.LogPublic(),
		LogSize: uint64(state.Tree.Size), Checkpoint: string(state.Checkpoint), Published: state.At.UTC(),
	}, nil
}

func (a *Admin) list(_ string, r *http.Request) (any, error) {
	all, err := a.ledger.Records.List(r.Context(), pins.UUID{}, allRecords)
	if err != nil {
		return nil, err
	}
	reply := adminapi.Records{Version: adminapi.Version, Records: []adminapi.Record{}}
	for _, record := range all {
		reply.Records = append(reply.Records, a.view(r.Context(), record))
	}
	return reply, nil
}

func (a *Admin) get(_ string, r *http.Request) (any, error) {
	disk, err := diskOf(r)
	if err != nil {
		return nil, err
	}
	record, err := a.ledger.Records.Get(r.Context(), disk)
	if err != nil {
		return nil, err
	}
	reply := a.view(r.Context(), record)
	reply.ReferenceValues, err = a.ledger.Records.Values(r.Context(), record)
	return reply, err
}

func (a *Admin) put(actor string, r *http.Request) (any, error) {
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
	if record, err = a.ledger.Put(r.Context(), actor, record, p.ReferenceValues, key, ledger.Replace{Record: p.Replace, RootOfTrust: p.ChangeRootOfTrust}); err != nil {
		return nil, err
	}
	return a.view(r.Context(), record), nil
}

// build checks a put, and makes a record of it.
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
	case slices.Max(key) == 0:
		return store.Record{}, errors.New("key is all zero")
	case p.ChangeRootOfTrust && !p.Replace:
		return store.Record{}, errors.New("change_root_of_trust is set but replace is not: a new record has no root of trust to change")
	}
	if err := p.Header.Check(); err != nil {
		return store.Record{}, err
	}
	r := store.Record{Header: p.Header, SPIFFEID: id, SameVM: p.SameVM}
	switch r.Evidence = store.EvidenceRule(p.Evidence); r.Evidence {
	case store.EvidenceNotRequired:
		if p.ReferenceValues != nil {
			return store.Record{}, errors.New("evidence is not required, so reference values would go unused")
		}
		return r, nil
	case store.EvidenceRequired:
		return r, checkValues(p)
	}
	return store.Record{}, fmt.Errorf("evidence is %q, want %q or %q", p.Evidence, store.EvidenceRequired, store.EvidenceNotRequired)
}

// checkValues holds the reference values against the header pin.
func checkValues(p adminapi.Put) error {
	values, err := refval.Decode(p.ReferenceValues)
	if err != nil {
		return err
	}
	if want, ok := values.Pins.Value(); ok && want.Header != p.Header {
		return fmt.Errorf("header pin is %s of disk %s, but the reference values have %s of disk %s: a disk that was rekeyed has new pins, which the reference values have to be made with (refval new --pins)",
			p.HeaderSHA256, p.DiskUUID, want.HeaderSHA256, want.DiskUUID)
	}
	return nil
}

func (a *Admin) delete(actor string, r *http.Request) (any, error) {
	disk, err := diskOf(r)
	if err != nil {
		return nil, err
	}
	return struct{}{}, a.ledger.Delete(r.Context(), actor, disk)
}

func (a *Admin) setState(state store.State) func(string, *http.Request) (any, error) {
	return func(actor string, r *http.Request) (any, error) {
		disk, err := diskOf(r)
		if err != nil {
			return nil, err
		}
		if err := a.ledger.SetState(r.Context(), actor, disk, state); err != nil {
			return nil, err
		}
		record, err := a.ledger.Records.Get(r.Context(), disk)
		return a.view(r.Context(), record), err
	}
}

func (a *Admin) releases(_ string, r *http.Request) (any, error) {
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

func (a *Admin) view(ctx context.Context, r store.Record) adminapi.Record {
	root := "unreadable"
	if known, err := a.ledger.RootOfTrust(ctx, r); err == nil {
		root = known.String()
	}
	return adminapi.Record{
		Header: r.Header, SPIFFEID: r.SPIFFEID.String(), Evidence: string(r.Evidence),
		ReferenceValuesSHA256: r.ReferenceValues, RootOfTrust: root, SameVM: r.SameVM, State: string(r.State),
		Generation: r.Generation, Created: r.Created, Changed: r.Changed,
	}
}
