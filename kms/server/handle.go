package server

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/rootvouch/rootvouch/evidence"
	"github.com/rootvouch/rootvouch/kms/acl"
	"github.com/rootvouch/rootvouch/kms/audit"
	"github.com/rootvouch/rootvouch/kms/keyapi"
	"github.com/rootvouch/rootvouch/kms/ledger"
	"github.com/rootvouch/rootvouch/kms/store"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/snp"
)

// refusal is an error with its code for the caller.
type refusal struct {
	code keyapi.Code
	err  error
}

func (r *refusal) Error() string { return r.err.Error() }
func (r *refusal) Unwrap() error { return r.err }

func refuse(code keyapi.Code, format string, args ...any) error {
	return &refusal{code, fmt.Errorf(format, args...)}
}

// codeOf is the one place that maps errors to the codes that callers see.
func codeOf(err error) keyapi.Code {
	if r, ok := errors.AsType[*refusal](err); ok {
		return r.code
	}
	switch {
	case errors.Is(err, ledger.ErrReleased):
		return keyapi.CodeDenied
	case errors.Is(err, store.ErrHeld):
		return keyapi.CodeHeld
	case errors.Is(err, store.ErrRetired), errors.Is(err, store.ErrVolumeState):
		return keyapi.CodeDenied
	case errors.Is(err, ledger.ErrStale):
		return keyapi.CodeNonce
	case errors.Is(err, ledger.ErrCapped):
		return keyapi.CodeBusy // the hour passes, or the owner lifts the limit
	}
	return keyapi.CodeUnavailable // the server's own fault: acl.ErrCannotJudge, ledger.ErrClock, a full disk
}

// checksOf names the checks that a request failed, for metrics and for the log.
func checksOf(code keyapi.Code, err error) []string {
	if r, ok := errors.AsType[*acl.Refusal](err); ok {
		return r.Checks
	}
	for _, row := range []struct {
		err  error
		name string
	}{
		{ledger.ErrReleased, "once"}, {ledger.ErrStale, "nonce"}, {ledger.ErrCapped, "cap"}, {store.ErrNotFound, "record"},
		{errSVID, "svid"}, {errUnknownCaller, "caller"}, {acl.ErrCannotJudge, "crl"}, {ledger.ErrClock, "clock"}, {ledger.ErrChanged, "changed"},
	} {
		if errors.Is(err, row.err) {
			return []string{row.name}
		}
	}
	return []string{string(code)}
}

var (
	errSVID          = errors.New("SVID")
	errUnknownCaller = errors.New("no record has this SPIFFE ID")
)

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
	case keyapi.CodeHeld:
		return http.StatusLocked
	}
	return http.StatusServiceUnavailable
}

// call is one request, fully read.
type call struct {
	ctx    context.Context
	caller acl.Caller
	disk   string // as in the path
	body   []byte
	// about is the request on the leaf. It fills up as the server learns more.
	about audit.Request
}

// serve reads a request, lets handle answer it, and sends the answer. A refusal goes on the
// log.
func (s *Server) serve(request string, handle func(*call) ([]byte, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		start, code := time.Now(), keyapi.Code("")
		defer func() { s.Answered(request, code, time.Since(start)) }()
		c := &call{ctx: r.Context(), disk: r.PathValue("uuid"), about: audit.Request{Remote: r.RemoteAddr}}
		var reply []byte
		err := s.read(c, w, r)
		if err == nil {
			reply, err = handle(c)
		}
		status := http.StatusOK
		if err != nil {
			code = codeOf(err)
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
func (s *Server) read(c *call, w http.ResponseWriter, r *http.Request) error {
	var err error
	if c.caller, err = s.caller(r); err != nil {
		return refuse(keyapi.CodeDenied, "%w: %v", errSVID, err)
	}
	c.about.SPIFFEID = c.caller.ID.String()
	c.body, err = readBody(w, r, keyapi.MaxRequestSize)
	return err
}

// readBody reads a request. A request that is too long is malformed. If the bytes do not arrive
// in time, the answer invites the caller to ask again, because this server may have been too
// busy to read them.
func readBody(w http.ResponseWriter, r *http.Request, most int64) ([]byte, error) {
	// The buffer has room for what the caller announces. io.ReadAll would grow it step by step.
	body := bytes.NewBuffer(make([]byte, 0, max(0, min(r.ContentLength, most))+bytes.MinRead))
	_, err := body.ReadFrom(http.MaxBytesReader(w, r.Body, most))
	if _, long := errors.AsType[*http.MaxBytesError](err); long {
		return nil, refuse(keyapi.CodeMalformed, "reading the request: %v", err)
	}
	if err != nil {
		return nil, refuse(keyapi.CodeUnavailable, "reading the request: %v", err)
	}
	return body.Bytes(), nil
}

// noteLimit bounds the time to record a refusal.
const noteLimit = 10 * time.Second

// note puts a refusal on the audit log and in the server's own log, unless this caller has had
// too many. The request is refused even if that fails.
func (s *Server) note(c *call, code keyapi.Code, reason error) {
	checks := checksOf(code, reason)
	s.Refused(c.about.Disk, checks)
	suppressed, ok := s.refusals.allow(c.about.SPIFFEID, s.Clock())
	if !ok {
		return
	}
	s.Log.Warn("refused", "spiffe_id", c.about.SPIFFEID, "remote", c.about.Remote, "disk", c.disk, "code", code, "reason", fmt.Sprintf("%.1000s", reason))
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.ctx), noteLimit)
	defer cancel()
	err := s.Ledger.Note(ctx, audit.Entry{Event: audit.Refusal, About: audit.AboutRefusal{
		Request: c.about, Code: string(code), Checks: checks, Reason: reason.Error(), Suppressed: suppressed}})
	if err != nil {
		s.Log.Error("recording a refusal", "err", err)
	}
}

// nonce answers keyapi.PathNonce. Only callers with a record get a nonce.
func (s *Server) nonce(c *call) ([]byte, error) {
	if _, err := keyapi.Decode[keyapi.NonceRequest](c.body); err != nil {
		return nil, refuse(keyapi.CodeMalformed, "%v", err)
	}
	known, err := s.Ledger.Records.KnowsCaller(c.ctx, c.caller.ID)
	if err != nil {
		return nil, err
	}
	if !known {
		return nil, refuse(keyapi.CodeDenied, "%w", errUnknownCaller)
	}
	n, err := s.nonces.issue(c.caller, s.Clock())
	if err != nil {
		return nil, err
	}
	s.Ledger.Announce(c.about.Remote)
	return keyapi.Encode(keyapi.NonceReply{Version: keyapi.Version, Nonce: n}), nil
}

// release answers keyapi.ReleasePath. The key leaves only after the ledger has made the release
// durable.
func (s *Server) release(c *call) ([]byte, error) {
	free, err := take(c.ctx, s.slots)
	if err != nil {
		return nil, err
	}
	defer free()
	s.Ledger.Announce(c.about.Remote)
	defer s.Ledger.Retract(c.about.Remote) // in case that the request is refused
	request, err := keyapi.Decode[keyapi.ReleaseRequest](c.body)
	if err != nil {
		return nil, refuse(keyapi.CodeMalformed, "%v", err)
	}
	x := acl.Case{Caller: c.caller, Request: request}
	x.Evidence, x.Malformed = s.memo.Read(request.Evidence, evidence.Plain)
	disk, err := pins.ParseUUID(c.disk)
	if err != nil {
		return nil, refuse(keyapi.CodeMalformed, "%v", err)
	}
	c.about.Disk, c.about.SHA256 = disk, sha256.Sum256(c.body)
	until, ours := s.nonces.until(c.caller, request.Nonce, s.Clock())
	fresh := ours && s.Clock().Before(until)
	if !fresh {
		if err := s.late(c, x, ours && s.Clock().Before(until.Add(nonceGrace))); err != nil {
			return nil, err
		}
	}
	if err := s.decide(c, &x); err != nil {
		return nil, err
	}
	reply, err := s.seal(x.Record, request, nil)
	if err != nil {
		return nil, err
	}
	claim := ledger.Claim{Record: x.Record, Launch: launchOf(x), Fresh: fresh, FreshUntil: until,
		About: audit.AboutRelease{Request: c.about, Generation: x.Record.Generation}}
	if x.Record.Evidence == store.EvidenceRequired {
		if claim.About.Proof, err = s.proof(c.ctx, x); err != nil {
			return nil, err
		}
	}
	if x.Record.Volume != nil {
		claim.Volume = new(store.Volume)
	}
	if err := s.Ledger.Release(c.ctx, claim); err != nil {
		return nil, err
	}
	if claim.Volume != nil { // the ledger has set what the launch is told
		if reply, err = s.seal(x.Record, request, s.tell(*x.Record.Volume, *claim.Volume)); err != nil {
			return nil, err
		}
	}
	s.Log.Info("released", "spiffe_id", c.caller.ID, "remote", c.about.Remote, "disk", disk,
		"generation", x.Record.Generation, "report_id", c.about.ReportID)
	return reply, nil
}

// slotWait is how long a request waits for an earlier one to end. A refusal and a second request
// would cost both sides more than the wait.
const slotWait = 5 * time.Second

// take takes a slot, and returns the function that frees it.
func take(ctx context.Context, slots chan struct{}) (free func(), err error) {
	wait := time.NewTimer(slotWait)
	defer wait.Stop()
	select {
	case slots <- struct{}{}:
		return func() { <-slots }, nil
	case <-wait.C:
		return nil, refuse(keyapi.CodeBusy, "%d releases are under way", cap(slots))
	case <-ctx.Done():
		return nil, refuse(keyapi.CodeUnavailable, "waiting for one of %d releases to end: %v", cap(slots), ctx.Err())
	}
}

// launchOf names the receiver of the key: the launch in the evidence, or this request if
// evidence is not required.
func launchOf(x acl.Case) store.Launch {
	if x.Record.Evidence == store.EvidenceNotRequired {
		return store.Launch{Nonce: x.Request.Nonce}
	}
	return store.Launch{ReportID: x.Evidence.Claims().ReportID}
}

// late decides, before the cost of an appraisal, about a request whose nonce is not fresh. It
// returns nil if the request may be a copy of one whose reply was lost; the ledger then decides
// again. underWay says that a copy of the request may still be in its transaction if the launch
// has no lease yet.
func (s *Server) late(c *call, x acl.Case, underWay bool) error {
	launches := []store.Launch{{Nonce: x.Request.Nonce}}
	if claimed := x.Evidence.Claims().ReportID; claimed != (snp.ReportID{}) {
		launches = append(launches, store.Launch{ReportID: claimed})
	}
	for _, launch := range launches {
		before, found, err := s.Ledger.Records.FindLease(c.ctx, c.about.Disk, launch)
		switch {
		case err != nil:
			return err
		case found && s.Ledger.Lost(before, c.about.SHA256, s.Clock()):
			return nil
		case found:
			underWay = false
		}
	}
	if underWay {
		return refuse(keyapi.CodeBusy, "nonce has just become too old: an earlier copy of the request may be under way")
	}
	return ledger.ErrStale
}

// decide completes the case and tries both locks, with the disk's record and with the staged
// one.
func (s *Server) decide(c *call, x *acl.Case) error {
	current, staged, err := s.Ledger.Records.Both(c.ctx, c.about.Disk)
	if errors.Is(err, store.ErrNotFound) {
		return refuse(keyapi.CodeDenied, "%w", err)
	}
	if err != nil {
		return err
	}
	x.Memo, x.Now = &s.memo, s.Clock()
	if x.Collateral, err = s.Collateral(); err != nil {
		return fmt.Errorf("loading collateral: %w", err)
	}
	var refused error
	for _, r := range []*store.Record{current, staged} {
		if r == nil {
			continue
		}
		err := s.decideBy(c, x, *r)
		if _, no := errors.AsType[*acl.Refusal](err); !no {
			return err
		}
		if refused == nil {
			refused = err
		} else {
			refused = fmt.Errorf("%w; generation %d: %v", refused, r.Generation, err)
		}
	}
	if errors.Is(refused, acl.ErrNoCertificate) {
		s.keep(*x)
	}
	return refuse(keyapi.CodeDenied, "%w", refused)
}

// decideBy tries the case with one record: with each of the reference values that it accepts,
// until one fits.
func (s *Server) decideBy(c *call, x *acl.Case, r store.Record) error {
	accepts := r.Accepts(x.Now)
	if len(accepts) == 0 {
		accepts = []pins.Digest{{}}
	}
	var refused error
	for _, digest := range accepts {
		var err error
		x.Record, x.ReferenceValues = r, digest
		if x.Values, err = s.values.get(c.ctx, s.Ledger, digest); err != nil {
			return fmt.Errorf("disk %s: %w", r.DiskUUID, err)
		}
		launch, err := acl.Decide(*x)
		if launch != (acl.Launch{}) {
			c.about.ReportID, c.about.Measurement = launch.ReportID, launch.Measurement[:]
		}
		if _, no := errors.AsType[*acl.Refusal](err); !no {
			return err
		}
		if refused == nil {
			refused = err
		} else {
			refused = fmt.Errorf("%w; reference values %.16s…: %v", refused, digest, err)
		}
	}
	return refused
}

// keep stores evidence that lacks its certificate where an operator can find it and fetch the
// certificate.
func (s *Server) keep(x acl.Case) {
	claims := x.Evidence.Claims()
	path, err := s.Kept.Keep(x.Request.Evidence, &claims)
	if err != nil {
		s.Log.Error("keeping evidence that lacks its certificate", "err", err)
	} else if path != "" {
		s.Log.Warn("kept evidence that lacks its certificate: rootvouch collateral fetch --report takes it", "file", path)
	}
}

// proof returns all inputs of a decision, for the log. The contents that the proof names are in
// the store before the leaf is.
func (s *Server) proof(ctx context.Context, x acl.Case) (*audit.Proof, error) {
	claims := x.Evidence.Claims()
	p := &audit.Proof{
		Time: x.Now.UTC().Round(0), Nonce: x.Request.Nonce, SPKI: x.Caller.SPKI, HPKEPublicKey: x.Request.HPKEPublicKey,
		Report: claims.Marshal(), Certificates: []pins.Digest{}, ReferenceValues: x.ReferenceValues,
	}
	for _, cert := range x.Evidence.Certificates() {
		digest, err := s.Ledger.Records.PutBlob(ctx, cert.Raw)
		if err != nil {
			return nil, err
		}
		p.Certificates = append(p.Certificates, digest)
	}
	var err error
	p.Collateral, err = s.collateral.put(ctx, s.Ledger, x.Collateral)
	return p, err
}

// tell returns what a launch learns about a volume that it has opened.
func (s *Server) tell(p store.VolumePolicy, v store.Volume) *keyapi.Volume {
	return &keyapi.Volume{
		Found: v.Found, AcceptUnclean: p.Unclean == store.UncleanAccept, Generation: v.Generation, Digest: v.Digest,
		Holder: v.Holder, CommitKey: s.Ledger.Records.CommitKey(v.DiskUUID, v.Holder),
	}
}

// seal makes the reply, which leaves when the release is durable. volume is nil for a disk.
func (s *Server) seal(record store.Record, request keyapi.ReleaseRequest, volume *keyapi.Volume) ([]byte, error) {
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
		Volume:     volume,
	}
	defer released.Wipe()
	sealed, err := keyapi.Seal(request.HPKEPublicKey, request.Nonce, record.DiskUUID, released)
	if err != nil {
		return nil, refuse(keyapi.CodeMalformed, "%v", err)
	}
	return keyapi.Encode(keyapi.ReleaseReply{Version: keyapi.Version, Sealed: sealed}), nil
}
