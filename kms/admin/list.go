package admin

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/rootvouch/rootvouch/kms/adminapi"
	"github.com/rootvouch/rootvouch/kms/audit"
	"github.com/rootvouch/rootvouch/kms/store"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/snp"
)

// A page of a list ends when it is full, or when the search takes too long. The client then
// asks for the next page, which begins where this page ended.
const (
	scanStep  = 200
	scanLimit = 50 * time.Millisecond
)

func (a *Admin) list(_ audit.Actor, r *http.Request) (any, error) {
	q, err := adminapi.ParseQuery(r.URL.Query())
	if err != nil {
		return nil, fmt.Errorf("%w: %v", errInvalid, err)
	}
	reply := adminapi.Records{Version: adminapi.Version, Records: []adminapi.Record{}}
	if reply.Total, err = a.ledger.Records.Count(r.Context()); err != nil {
		return nil, err
	}
	if q.SPIFFEID != "" {
		err := a.listOf(r.Context(), q, &reply)
		return reply, err
	}
	for start, after := time.Now(), q.After; ; {
		page, err := a.ledger.Records.List(r.Context(), after, min(scanStep, q.Limit+1))
		if err != nil {
			return nil, err
		}
		if len(page) == 0 {
			return reply, nil
		}
		for _, record := range page {
			if len(reply.Records) == q.Limit || after != q.After && time.Since(start) > scanLimit {
				reply.Next = after
				return reply, nil
			}
			after = record.DiskUUID
			if shown := a.view(r.Context(), record); matches(q, shown) {
				reply.Records = append(reply.Records, shown)
			}
		}
	}
}

// listOf lists the records with a given SPIFFE ID. It reads them from an index.
func (a *Admin) listOf(ctx context.Context, q adminapi.Query, reply *adminapi.Records) error {
	id, err := spiffeid.FromString(q.SPIFFEID)
	if err != nil {
		return fmt.Errorf("%w: spiffe_id: %v", errInvalid, err)
	}
	all, err := a.ledger.Records.ByCaller(ctx, id)
	if err != nil {
		return err
	}
	for _, record := range all {
		if record.Item() != store.KeyRecord(record.DiskUUID) || q.After != (pins.UUID{}) && record.DiskUUID.String() <= q.After.String() {
			continue
		}
		if len(reply.Records) == q.Limit {
			reply.Next = reply.Records[len(reply.Records)-1].DiskUUID
			return nil
		}
		if shown := a.view(ctx, record); matches(q, shown) {
			reply.Records = append(reply.Records, shown)
		}
	}
	return nil
}

func matches(q adminapi.Query, r adminapi.Record) bool {
	return (q.State == "" || r.State == q.State) && (q.RootOfTrust == "" || strings.EqualFold(r.RootOfTrust, q.RootOfTrust)) &&
		(q.Measurement == snp.Measurement{} || slices.ContainsFunc(r.Measurements, func(m adminapi.Measurement) bool { return m.Digest == q.Measurement }))
}

// kept lists the records that are no longer in force.
func (a *Admin) kept(_ audit.Actor, r *http.Request) (any, error) {
	after := ""
	if v := r.URL.Query(); v.Has("after") {
		disk, err := pins.ParseUUID(v.Get("after"))
		if err != nil {
			return nil, fmt.Errorf("%w: after: %v", errInvalid, err)
		}
		generation, err := strconv.ParseUint(v.Get("generation"), 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%w: generation: %v", errInvalid, err)
		}
		after = store.KeyKept(disk, generation)
	}
	all, err := a.ledger.Records.KeptAfter(r.Context(), after, adminapi.MaxPage)
	if err != nil {
		return nil, err
	}
	reply := adminapi.Records{Version: adminapi.Version, Records: []adminapi.Record{}}
	for _, record := range all {
		reply.Records = append(reply.Records, a.view(r.Context(), record))
	}
	if len(all) == adminapi.MaxPage {
		reply.Next = all[len(all)-1].DiskUUID
	}
	reply.Total, err = a.ledger.Records.Count(r.Context())
	return reply, err
}
