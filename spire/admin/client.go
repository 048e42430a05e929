package admin

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	agentv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/agent/v1"
	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
)

const pageSize = 500

// Client administers a SPIRE server through its unix socket. Only the socket's permissions
// protect the server.
type Client struct {
	conn    *grpc.ClientConn
	entries entryv1.EntryClient
	agents  agentv1.AgentClient
}

// Dial prepares a client. It connects at the first call.
func Dial(socket string) (*Client, error) {
	conn, err := grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, fmt.Errorf("dialling SPIRE server at %s: %w", socket, err)
	}
	return &Client{conn, entryv1.NewEntryClient(conn), agentv1.NewAgentClient(conn)}, nil
}

// Close ends the connection.
func (c *Client) Close() error { return c.conn.Close() }

// Ready reports whether the server answers.
func (c *Client) Ready(ctx context.Context) error {
	if _, err := c.entries.CountEntries(ctx, &entryv1.CountEntriesRequest{}); err != nil {
		return fmt.Errorf("asking the SPIRE server: %w", err)
	}
	return nil
}

// list returns the server's entries whose ID wanted accepts, by their IDs.
func (c *Client) list(ctx context.Context, wanted func(entryID string) bool) (map[string]*types.Entry, error) {
	found := map[string]*types.Entry{}
	for token := ""; ; {
		page, err := c.entries.ListEntries(ctx, &entryv1.ListEntriesRequest{PageSize: pageSize, PageToken: token})
		if err != nil {
			return nil, err
		}
		for _, e := range page.Entries {
			if wanted(e.Id) {
				found[e.Id] = e
			}
		}
		if token = page.NextPageToken; token == "" {
			return found, nil
		}
	}
}

func (c *Client) remove(ctx context.Context, id string) error {
	r, err := c.entries.BatchDeleteEntry(ctx, &entryv1.BatchDeleteEntryRequest{Ids: []string{id}})
	if err != nil {
		return err
	}
	return one(len(r.Results), func() *types.Status { return r.Results[0].Status })
}

// one returns the outcome of a batch with one item.
func one(n int, first func() *types.Status) error {
	if n != 1 {
		return fmt.Errorf("got %d results, want 1", n)
	}
	s := first()
	return status.Error(codes.Code(s.GetCode()), s.GetMessage())
}

// same compares all fields that give an identity or take one away. A field that somebody else
// set on our entry (admin, downstream, DNS names) is a difference.
func same(have, want *types.Entry) bool {
	return have.SpiffeId.GetTrustDomain() == want.SpiffeId.GetTrustDomain() && have.SpiffeId.GetPath() == want.SpiffeId.GetPath() &&
		have.ParentId.GetTrustDomain() == want.ParentId.GetTrustDomain() && have.ParentId.GetPath() == want.ParentId.GetPath() &&
		slices.Equal(selectorText(have), selectorText(want)) &&
		have.X509SvidTtl == want.X509SvidTtl && have.JwtSvidTtl == 0 && have.ExpiresAt == want.ExpiresAt && have.Hint == "" &&
		!have.Admin && !have.Downstream && !have.StoreSvid && len(have.DnsNames) == 0 && len(have.FederatesWith) == 0
}

func selectorText(e *types.Entry) []string {
	var all []string
	for _, s := range e.Selectors {
		all = append(all, s.Type+":"+s.Value)
	}
	slices.Sort(all)
	return all
}

func (e Entry) proto() *types.Entry {
	out := &types.Entry{
		Id:          e.ID,
		SpiffeId:    protoID(e.SPIFFEID),
		ParentId:    protoID(e.Parent),
		X509SvidTtl: int32(e.TTL / time.Second),
	}
	if !e.End.IsZero() {
		out.ExpiresAt = e.End.Unix()
	}
	for _, s := range e.Selectors {
		out.Selectors = append(out.Selectors, &types.Selector{Type: s.Type, Value: s.Value})
	}
	return out
}

func protoID(id spiffeid.ID) *types.SPIFFEID {
	return &types.SPIFFEID{TrustDomain: id.TrustDomain().Name(), Path: id.Path()}
}

// fromProto describes a removed entry. IDs that do not parse stay zero.
func fromProto(e *types.Entry) Entry {
	out := Entry{ID: e.Id, TTL: time.Duration(e.X509SvidTtl) * time.Second}
	out.SPIFFEID, _ = spiffeid.FromString("spiffe://" + e.SpiffeId.GetTrustDomain() + e.SpiffeId.GetPath())
	if e.ExpiresAt != 0 {
		out.End = time.Unix(e.ExpiresAt, 0).UTC()
	}
	out.Parent, _ = spiffeid.FromString("spiffe://" + e.ParentId.GetTrustDomain() + e.ParentId.GetPath())
	for _, s := range e.Selectors {
		out.Selectors = append(out.Selectors, Selector{s.Type, s.Value})
	}
	return out
}

// JoinToken makes a token with which one agent can attest, once, within ttl. The agent gets the
// identity alias beside its own, as a parent for entries.
func (c *Client) JoinToken(ctx context.Context, alias spiffeid.ID, ttl time.Duration) (string, error) {
	if ttl < time.Second {
		return "", fmt.Errorf("making a join token: lifetime is %v, want at least 1s", ttl)
	}
	token, err := c.agents.CreateJoinToken(ctx, &agentv1.CreateJoinTokenRequest{Ttl: int32(ttl / time.Second), AgentId: protoID(alias)})
	if err != nil {
		return "", fmt.Errorf("making a join token: %w", err)
	}
	if token.GetValue() == "" {
		return "", errors.New("making a join token: got none")
	}
	return token.Value, nil
}
