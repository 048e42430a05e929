package admin

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	entryv1 "github.com/spiffe/spire-api-sdk/proto/spire/api/server/entry/v1"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"
	"google.golang.org/grpc/codes"
)

// Action says what happens to an entry.
type Action string

// The actions.
const (
	Created   Action = "created"
	Updated   Action = "updated"
	Unchanged Action = "unchanged"
	Removed   Action = "removed"
)

// Change is what happens to one entry. For a removed entry, Entry is what the server had.
type Change struct {
	Action Action
	Entry  Entry
}

// Plan returns the changes that make the server's entries those of the group. It changes
// nothing itself. Missing entries are created, and others updated. Entries that an earlier
// Apply made for the same group and that are no longer wanted are removed, last. Entries of
// other makers are left alone. It is an error if the workload ID of a VM is that of a key
// server, or the reverse.
func (c *Client) Plan(ctx context.Context, g Group) ([]Change, error) {
	if g.owns == nil {
		return nil, errors.New("applying entries: the group is empty")
	}
	all, err := c.ours(ctx)
	if err != nil {
		return nil, err
	}
	if err := g.clash(all); err != nil {
		return nil, fmt.Errorf("applying entries: %w", err)
	}
	return g.changes(all), nil
}

// changes compares the group with the server's entries.
func (g Group) changes(all map[string]*types.Entry) []Change {
	have := maps.Clone(all)
	maps.DeleteFunc(have, func(id string, _ *types.Entry) bool { return !g.owns(id) })
	var changes []Change
	for _, want := range g.Entries {
		action := Updated
		switch old := have[want.ID]; {
		case old == nil:
			action = Created
		case same(old, want.proto()):
			action = Unchanged
		}
		changes = append(changes, Change{action, want})
		delete(have, want.ID)
	}
	for _, id := range slices.Sorted(maps.Keys(have)) {
		changes = append(changes, Change{Removed, fromProto(have[id])})
	}
	return changes
}

// Apply carries out the Plan of the group and returns it. If an entry of another maker
// conflicts, Apply returns an error. A second Apply changes nothing.
func (c *Client) Apply(ctx context.Context, g Group) ([]Change, error) {
	plan, err := c.Plan(ctx, g)
	if err != nil {
		return nil, err
	}
	return plan, c.CarryOut(ctx, plan)
}

func (c *Client) carryOut(ctx context.Context, change Change) error {
	wanted := []*types.Entry{change.Entry.proto()}
	switch change.Action {
	case Created:
		r, err := c.entries.BatchCreateEntry(ctx, &entryv1.BatchCreateEntryRequest{Entries: wanted})
		if err != nil {
			return err
		}
		if len(r.Results) == 1 && codes.Code(r.Results[0].Status.GetCode()) == codes.AlreadyExists {
			return fmt.Errorf("entry %s of the same SPIFFE ID, parent and selectors is in the way", r.Results[0].Entry.GetId())
		}
		return one(len(r.Results), func() *types.Status { return r.Results[0].Status })
	case Updated:
		// Without a mask every field is set, including those that we leave at zero.
		r, err := c.entries.BatchUpdateEntry(ctx, &entryv1.BatchUpdateEntryRequest{Entries: wanted})
		if err != nil {
			return err
		}
		return one(len(r.Results), func() *types.Status { return r.Results[0].Status })
	case Removed:
		return c.remove(ctx, change.Entry.ID)
	}
	return nil
}

// ours returns the entries that this package made, by their IDs.
func (c *Client) ours(ctx context.Context) (map[string]*types.Entry, error) {
	all, err := c.list(ctx, func(id string) bool { return strings.HasPrefix(id, idPrefix) })
	if err != nil {
		return nil, fmt.Errorf("listing entries: %w", err)
	}
	return all, nil
}

// clash refuses a SPIFFE ID that a VM and the key server would share, because each could then
// pass for the other.
func (g Group) clash(all map[string]*types.Entry) error {
	for _, want := range g.Entries {
		for id, have := range all {
			if strings.HasPrefix(id, kmsPrefix) == strings.HasPrefix(want.ID, kmsPrefix) {
				continue
			}
			if have.SpiffeId.GetTrustDomain() == want.SPIFFEID.TrustDomain().Name() && have.SpiffeId.GetPath() == want.SPIFFEID.Path() {
				return fmt.Errorf("%s is the ID of entry %s, want one that no VM shares with the key server", want.SPIFFEID, id)
			}
		}
	}
	return nil
}

// Release is one release of a VM, as its entries on the server describe it.
type Release struct {
	Name string    // the release's name
	End  time.Time // the latest end of its entries; zero: an entry has no end
	// Entries is the number of entries. An interrupted Apply leaves fewer than it wanted.
	Entries int
}

// Releases returns the releases of a VM that have entries, sorted by name.
func (c *Client) Releases(ctx context.Context, vm string) ([]Release, error) {
	if err := checkName(vm); err != nil {
		return nil, err
	}
	all, err := c.ours(ctx)
	if err != nil {
		return nil, err
	}
	return releases(vm, all), nil
}

func releases(vm string, all map[string]*types.Entry) []Release {
	found := map[string]Release{} // :: name -> release
	for id, e := range all {
		rest, ok := strings.CutPrefix(id, releasePrefix+vm+".")
		if !ok {
			continue
		}
		name, _, _ := strings.Cut(rest, ".")
		end := fromProto(e).End
		r, seen := found[name]
		switch {
		case !seen:
			r = Release{Name: name, End: end}
		case end.IsZero() || r.End.IsZero():
			r.End = time.Time{}
		case end.After(r.End):
			r.End = end
		}
		r.Entries++
		found[name] = r
	}
	return slices.SortedFunc(maps.Values(found), func(a, b Release) int { return strings.Compare(a.Name, b.Name) })
}

// PlanEnd returns the changes that give all entries of a release an end, or no end if end is
// zero.
func (c *Client) PlanEnd(ctx context.Context, vm, release string, end time.Time) ([]Change, error) {
	all, err := c.ours(ctx)
	if err != nil {
		return nil, err
	}
	var changes []Change
	for _, id := range slices.Sorted(maps.Keys(all)) {
		if !strings.HasPrefix(id, releasePrefix+vm+"."+release+".") {
			continue
		}
		e := fromProto(all[id])
		action := Updated
		if e.End.Equal(end) {
			action = Unchanged
		}
		e.End = end
		changes = append(changes, Change{action, e})
	}
	if len(changes) == 0 {
		return nil, fmt.Errorf("release %q of VM %q has no entries", release, vm)
	}
	return changes, nil
}

// CarryOut makes the changes of a plan, in their order.
func (c *Client) CarryOut(ctx context.Context, plan []Change) error {
	for _, change := range plan {
		if err := c.carryOut(ctx, change); err != nil {
			return fmt.Errorf("applying entry %s: %w", change.Entry.ID, err)
		}
	}
	return nil
}
