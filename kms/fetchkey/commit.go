package fetchkey

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"

	"github.com/rootvouch/rootvouch/kms/keyapi"
	"github.com/rootvouch/rootvouch/pins"
)

// Commit tells the key server that a volume was closed. Every field must be set.
type Commit struct {
	Disk    pins.UUID
	Request keyapi.CommitRequest
	// Addresses are the key server's, as in Config.
	Addresses []string
	// ServerID is the SPIFFE ID that the key server must prove.
	ServerID spiffeid.ID
	// Bundles has the long-lived roots of the trust domain, because the SPIRE agent has stopped
	// by then.
	Bundles x509bundle.Source
	// Patience is how long Send keeps asking the addresses.
	Patience time.Duration
}

// Send tells the key server, and returns nil when the key server has recorded the close. Send
// shows no SVID: the request carries a MAC under a key that came with the release. The error
// matches ErrRefused if the key server refused.
func (c Commit) Send(ctx context.Context) error {
	if c.Disk == (pins.UUID{}) || len(c.Addresses) == 0 || c.ServerID.IsZero() || c.Bundles == nil || c.Patience <= 0 {
		panic("fetchkey: internal error: Send with an incomplete Commit")
	}
	ctx, cancel := context.WithTimeout(ctx, c.Patience)
	defer cancel()
	servers := serversOf(c.Addresses, c.client)
	defer servers.close()
	data, err := servers.post(ctx, keyapi.CommitPath(c.Disk), keyapi.Encode(c.Request))
	if again, ok := errors.AsType[*retryError](err); ok {
		return fmt.Errorf("commit: giving up after %d tries: %w", servers.tries, again)
	}
	if err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	reply, err := keyapi.Decode[keyapi.CommitReply](data)
	if err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	if reply.Generation != c.Request.Generation {
		return fmt.Errorf("commit: reply is about generation %d, want %d", reply.Generation, c.Request.Generation)
	}
	return nil
}

// client makes a client that verifies the key server and shows no identity of its own.
func (c Commit) client(address string) *client {
	config := &tls.Config{MinVersion: tls.VersionTLS13}
	tlsconfig.HookTLSClientConfig(config, c.Bundles, tlsconfig.AuthorizeID(c.ServerID))
	config.ServerName = keyapi.CommitServerName
	verify := config.VerifyPeerCertificate
	config.VerifyPeerCertificate = func(raw [][]byte, chains [][]*x509.Certificate) error {
		if err := verify(raw, chains); err != nil {
			return &peerError{err}
		}
		return nil
	}
	return newHTTP(address, config)
}
