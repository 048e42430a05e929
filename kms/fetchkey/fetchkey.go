// Package fetchkey asks the key server for the key of this guest's disk.
//
// The package is the guest's side of the two locks (docs/DESIGN.md). It gets an SVID from
// the SPIRE agent. It accepts only a server with the SPIFFE ID that the measured boot
// configuration names, over mutual TLS. It sends evidence that binds the server's nonce,
// the disk, the SVID's public key and an ephemeral HPKE key. The server seals its reply to
// the HPKE key. The package does not judge evidence.
package fetchkey

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/rootvouch/rootvouch/evidence"
	"github.com/rootvouch/rootvouch/kms/keyapi"
	"github.com/rootvouch/rootvouch/pins"
)

// Identity is this guest's SVID and the roots that it trusts.
type Identity struct {
	SVID    *x509svid.SVID
	Bundles x509bundle.Source
}

// Config says which key to ask for, and from whom. Every field must be set.
type Config struct {
	// Disk is the UUID of the disk whose key Fetch asks for.
	Disk pins.UUID
	// Addresses are the key server's, "host:port", at least one. Fetch asks them in turn. The
	// server at each must prove ServerID.
	Addresses []string
	// ServerID is the SPIFFE ID that the key server must prove.
	ServerID spiffeid.ID
	// Identity gets the SVID. WorkloadAPI makes a function that asks the agent.
	Identity func(context.Context) (Identity, error)
	// Evidence gets a report with this REPORT_DATA, and its certificates.
	Evidence func(reportData [64]byte) (evidence.Evidence, error)
	// Patience is how long Fetch keeps asking the addresses if it reaches none of them, or if
	// the server cannot answer now.
	Patience time.Duration
	// Log, unless nil, gets a line for each step, without secrets.
	Log func(line string)
}

// ErrRefused says that the key server's answer is a final no. The key server's audit log has
// the reason.
var ErrRefused = errors.New("key server refuses")

// StepError says at which step fetching failed.
type StepError struct {
	Step string // "identity", "nonce", "evidence", "release" or "reply"
	Err  error
}

func (e *StepError) Error() string { return e.Step + ": " + e.Err.Error() }

// Unwrap returns Err.
func (e *StepError) Unwrap() error { return e.Err }

// Fetch gets the key. The error is a *StepError, and matches ErrRefused when the
// key server refused. The caller wipes the result.
func Fetch(ctx context.Context, c Config) (*keyapi.Released, error) {
	if c.Disk == (pins.UUID{}) || len(c.Addresses) == 0 || c.ServerID.IsZero() || c.Identity == nil || c.Evidence == nil || c.Patience <= 0 {
		panic("fetchkey: internal error: Fetch with an incomplete Config")
	}
	start := time.Now()
	id, err := c.Identity(ctx)
	if err != nil {
		return nil, &StepError{"identity", err}
	}
	if id.SVID.ID.TrustDomain() != c.ServerID.TrustDomain() {
		return nil, &StepError{"identity", fmt.Errorf("SVID is %s, want one of trust domain %s", id.SVID.ID, c.ServerID.TrustDomain())}
	}
	c.log("identity: %s (%s)", id.SVID.ID, time.Since(start).Round(time.Millisecond))

	ctx, cancel := context.WithTimeout(ctx, c.Patience)
	defer cancel()
	servers := newServers(c.Addresses, c.ServerID, id)
	defer servers.close()
	for wait := firstWait; ; wait = min(2*wait, maxWait) {
		released, err := c.exchange(ctx, servers, id)
		var stale *staleError
		if !errors.As(err, &stale) || !pause(ctx, wait) {
			return released, giveUp(err, servers.tries)
		}
	}
}

func (c Config) log(format string, args ...any) {
	if c.Log != nil {
		c.Log(fmt.Sprintf(format, args...))
	}
}

// giveUp adds the number of tries to the error of a step, if the error might have passed.
func giveUp(err error, tries int) error {
	var step *StepError
	var again *retryError
	var stale *staleError
	if errors.As(err, &step) && (errors.As(err, &again) || errors.As(err, &stale)) {
		return &StepError{step.Step, fmt.Errorf("giving up after %d tries: %w", tries, step.Err)}
	}
	return err
}

// exchange gets a nonce, makes evidence and asks for the release. Its error is a *StepError. If
// it holds a *staleError, another exchange may succeed.
func (c Config) exchange(ctx context.Context, servers *servers, id Identity) (*keyapi.Released, error) {
	start := time.Now()
	nonce, err := servers.nonce(ctx)
	if err != nil {
		return nil, &StepError{"nonce", err}
	}
	gotNonce := time.Now()
	recipient, err := keyapi.NewRecipient()
	if err != nil {
		return nil, &StepError{"evidence", err}
	}
	public := recipient.PublicKey()
	spki := id.SVID.Certificates[0].RawSubjectPublicKeyInfo
	vouched, err := c.Evidence(evidence.KeyRelease(nonce, c.Disk, spki, public[:]))
	if err != nil {
		return nil, &StepError{"evidence", err}
	}
	document, err := vouched.Encode()
	if err != nil {
		return nil, &StepError{"evidence", err}
	}
	gotEvidence := time.Now()
	sealed, err := servers.release(ctx, keyapi.ReleasePath(c.Disk), keyapi.ReleaseRequest{
		Version:       keyapi.Version,
		Nonce:         nonce,
		HPKEPublicKey: public,
		Evidence:      document,
	})
	if err != nil {
		return nil, &StepError{"release", err}
	}
	released, err := recipient.Open(nonce, c.Disk, sealed)
	if err != nil {
		return nil, &StepError{"reply", err}
	}
	if released.KMSID != c.ServerID.String() {
		got := released.KMSID
		released.Wipe()
		return nil, &StepError{"reply", fmt.Errorf("KMS ID is %q, want %q", got, c.ServerID)}
	}
	c.log("nonce %s, evidence %s, release %s", gotNonce.Sub(start).Round(time.Millisecond),
		gotEvidence.Sub(gotNonce).Round(time.Millisecond), time.Since(gotEvidence).Round(time.Millisecond))
	return released, nil
}
