package server

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/rootvouch/rootvouch/appraise"
	"github.com/rootvouch/rootvouch/evidence"
	"github.com/rootvouch/rootvouch/kms/acl"
	"github.com/rootvouch/rootvouch/kms/audit"
	"github.com/rootvouch/rootvouch/kms/keyapi"
	"github.com/rootvouch/rootvouch/kms/ledger"
	"github.com/rootvouch/rootvouch/kms/store"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/snp"
)

// refusal is an error whose meaning for the caller is known.
type refusal struct {
	code keyapi.Code
	err  error
}

func (r *refusal) Error() string { return r.err.Error() }

func refuse(code keyapi.Code, format string, args ...any) error {
	return &refusal{code, fmt.Errorf(format, args...)}
}

// codeOf is the one place where errors become what a caller learns.
func codeOf(err error) keyapi.Code {
	if r, ok := errors.AsType[*refusal](err); ok {
		return r.code
	}
	switch {
	case errors.Is(err, ledger.ErrReleased):
		return keyapi.CodeDenied
	case errors.Is(err, ledger.ErrStale):
		return keyapi.CodeNonce
	}
	return keyapi.CodeUnavailable // ledger.ErrChanged, a broken audit log, a full disk
}

// statusOf is the HTTP status that carries a code.
func statusOf(code keyapi.Code) int {
	switch code {
	case keyapi.CodeMalformed:
		return http.StatusBadRequest
	case keyapi.CodeDenied:
		return http.StatusForbidden
	case keyapi.CodeNonce:
		return http.StatusConflict
	case keyapi.CodeBusy:
		return http.StatusTooManyRequests
	}
	return http.StatusServiceUnavailable
}

// call is one request, read whole.
type call struct {
	ctx    context.Context
	caller acl.Caller
	disk   string // as the path has it
	body   []byte
	// entry is what the audit log will say, filled as things become known.
	entry audit.Entry
}

// serve reads a request, has it handled, and answers. A refusal goes to the audit
// log.
func (s *Server) serve(handle func(*call) ([]byte, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		c := &call{ctx: r.Context(), disk: r.PathValue("uuid"), entry: audit.Entry{Remote: r.RemoteAddr}}
		reply, err := s.read(c, w, r)
		if err == nil {
			reply, err = handle(c)
		}
		status := http.StatusOK
		if err != nil {
			code := codeOf(err)
			s.note(c, code, err)
			status, reply = statusOf(code), keyapi.Encode(keyapi.ErrorReply{Version: keyapi.Version, Error: code})
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		w.WriteHeader(status)
		w.Write(reply)
	}
}

// read verifies the caller and reads the body.
func (s *Server) read(c *call, w http.ResponseWriter, r *http.Request) ([]byte, error) {
	var err error
	if c.caller, err = s.caller(r); err != nil {
		return nil, refuse(keyapi.CodeDenied, "%v", err)
	}
	c.entry.SPIFFEID = c.caller.ID.String()
	c.body, err = io.ReadAll(http.MaxBytesReader(w, r.Body, keyapi.MaxRequestSize))
	if err != nil {
		return nil, refuse(keyapi.CodeMalformed, "reading the request: %v", err)
	}
	return nil, nil
}

// note puts a refusal on the audit log and in the server's log, unless this
// caller has had too many. It is refused all the same if that fails.
func (s *Server) note(c *call, code keyapi.Code, reason error) {
	suppressed, ok := s.refusals.allow(c.entry.SPIFFEID, s.Clock())
	if !ok {
		return
	}
	c.entry.Event, c.entry.Suppressed = audit.Refusal, suppressed
	c.entry.Code, c.entry.Reason = string(code), reason.Error()
	s.Log.Warn("refused", "spiffe_id", c.entry.SPIFFEID, "remote", c.entry.Remote, "disk", c.disk, "code", code, "reason", fmt.Sprintf("%.1000s", c.entry.Reason))
	if err := s.Ledger.Note(c.entry); err != nil {
		s.Log.Error("auditing a refusal", "err", err)
	}
}

// nonce answers keyapi.PathNonce. Only callers that some record names get one.
func (s *Server) nonce(c *call) ([]byte, error) {
	if _, err := keyapi.Decode[keyapi.NonceRequest](c.body); err != nil {
		return nil, refuse(keyapi.CodeMalformed, "%v", err)
	}
	known, err := s.Ledger.Records.KnowsCaller(c.caller.ID)
	if err != nil {
		return nil, err
	}
	if !known {
		return nil, refuse(keyapi.CodeDenied, "no record has this SPIFFE ID")
	}
	n, err := s.nonces.issue(c.caller, s.Clock())
	if err != nil {
		return nil, err
	}
	return keyapi.Encode(keyapi.NonceReply{Version: keyapi.Version, Nonce: n}), nil
}

// release answers keyapi.ReleasePath. The order matters: the nonce is used up
// first, the key leaves after the ledger has made the release durable.
func (s *Server) release(c *call) ([]byte, error) {
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	default:
		return nil, refuse(keyapi.CodeBusy, "%d releases are under way", maxReleases)
	}
	request, err := keyapi.Decode[keyapi.ReleaseRequest](c.body)
	if err != nil {
		return nil, refuse(keyapi.CodeMalformed, "%v", err)
	}
	presented, malformed := appraise.Read(request.Evidence, evidence.Plain)
	disk, err := pins.ParseUUID(c.disk)
	if err != nil {
		return nil, refuse(keyapi.CodeMalformed, "%v", err)
	}
	c.entry.Disk, c.entry.RequestSHA256 = disk, sha256.Sum256(c.body)
	fresh := s.nonces.take(c.caller, request.Nonce, s.Clock())
	if !fresh && !s.maybeLost(c, disk, presented.Claims().ReportID) {
		return nil, ledger.ErrStale
	}
	record, launch, err := s.decide(c, disk, acl.Case{Caller: c.caller, Request: request, Evidence: presented, Malformed: malformed})
	if err != nil {
		return nil, err
	}
	reply, err := s.seal(record, request)
	if err != nil {
		return nil, err
	}
	c.entry.Generation, c.entry.Evidence = record.Generation, string(record.Evidence)
	c.entry.ReferenceValuesSHA256 = record.ReferenceValues
	claim := ledger.Claim{
		Record:        record,
		ReportID:      launch.ReportID,
		RequestSHA256: c.entry.RequestSHA256,
		Fresh:         fresh,
		Entry:         c.entry,
	}
	if err := s.Ledger.Release(claim); err != nil {
		return nil, err
	}
	s.Log.Info("released", "spiffe_id", c.caller.ID, "remote", c.entry.Remote, "disk", disk,
		"generation", record.Generation, "report_id", launch.ReportID)
	return reply, nil
}

// maybeLost looks whether a request with a used nonce may be one whose reply was
// lost, before the cost of an appraisal. The ledger decides again.
func (s *Server) maybeLost(c *call, disk pins.UUID, claimed snp.ReportID) bool {
	if claimed == (snp.ReportID{}) {
		return false
	}
	before, found, err := s.Ledger.Records.FindRelease(disk, claimed)
	return err == nil && found && s.Ledger.Lost(before, c.entry.RequestSHA256, s.Clock())
}

// decide completes the case, and holds it against both locks.
func (s *Server) decide(c *call, disk pins.UUID, x acl.Case) (store.Record, acl.Launch, error) {
	record, err := s.Ledger.Records.Get(disk)
	if errors.Is(err, store.ErrNotFound) {
		return store.Record{}, acl.Launch{}, refuse(keyapi.CodeDenied, "%v", err)
	}
	if err != nil {
		return store.Record{}, acl.Launch{}, err
	}
	x.Record, x.Memo, x.Now = record, &s.memo, s.Clock()
	if x.Values, err = s.values.get(s.Ledger, record); err != nil {
		return store.Record{}, acl.Launch{}, err
	}
	if x.Collateral, err = s.Collateral(); err != nil {
		return store.Record{}, acl.Launch{}, fmt.Errorf("loading collateral: %w", err)
	}
	launch, err := acl.Decide(x)
	if launch != (acl.Launch{}) {
		c.entry.ReportID, c.entry.Measurement = launch.ReportID, launch.Measurement[:]
	}
	if err != nil {
		return store.Record{}, launch, refuse(keyapi.CodeDenied, "%v", err)
	}
	return record, launch, nil
}

// seal makes the reply that will leave when the release is durable.
func (s *Server) seal(record store.Record, request keyapi.ReleaseRequest) ([]byte, error) {
	key, err := s.Ledger.Records.Key(record)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	released := &keyapi.Released{
		Key:        [keyapi.KeySize]byte(key),
		Header:     record.Header,
		Generation: record.Generation,
		KMSID:      s.ID.String(),
	}
	defer released.Wipe()
	sealed, err := keyapi.Seal(request.HPKEPublicKey, request.Nonce, record.DiskUUID, released)
	if err != nil {
		return nil, refuse(keyapi.CodeMalformed, "%v", err)
	}
	return keyapi.Encode(keyapi.ReleaseReply{Version: keyapi.Version, Sealed: sealed}), nil
}
