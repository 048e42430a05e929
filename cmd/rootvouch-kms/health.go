package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/rootvouch/rootvouch/kms/health"
	"github.com/rootvouch/rootvouch/kms/kv/etcdkv"
)

const (
	// lagLimit is how long the log may lack leaves that the store has.
	lagLimit = time.Minute
	// witnessLimit is how long witnesses may not cosign before there is a warning.
	witnessLimit = 10 * time.Minute
	// svidWarning says when the agent should have renewed an SVID: when 1/svidWarning of its
	// life is left. SPIRE agents renew at half of it.
	svidWarning = 4
)

// newHealth makes the checks and metrics of a server.
func newHealth(c config, b book, svids x509svid.Source, collateral *collateralDir, log *slog.Logger) *health.Health {
	lives := func(least func(*x509svid.SVID) time.Time) func() error {
		return func() error {
			svid, err := svids.GetX509SVID()
			if err != nil {
				return err
			}
			if leaf := svid.Certificates[0]; time.Now().After(least(svid)) {
				return fmt.Errorf("the server's own SVID expires at %s, and was not renewed: is its SPIRE agent alive?", leaf.NotAfter.UTC().Format(time.RFC3339))
			}
			return nil
		}
	}
	checks, gauges := b.health()
	if len(c.Witnesses) > 0 {
		checks = append(checks, health.Check{Name: "witness", Warning: true, Do: func() error {
			if _, at := c.witnesses.State(); time.Since(at) > witnessLimit {
				return fmt.Errorf("witnesses have not cosigned the log since %s", at.UTC().Format(time.RFC3339))
			}
			return nil
		}})
		gauges = append(gauges, health.Gauge{Name: "cosigned_timestamp_seconds", Help: "When witnesses had cosigned all of the log.", Read: func() float64 {
			_, at := c.witnesses.State()
			return float64(at.Unix())
		}})
	}
	return health.New(log, append(checks, []health.Check{
		{Name: "svid", Do: lives(func(s *x509svid.SVID) time.Time { return s.Certificates[0].NotAfter })},
		{Name: "svid expires", Warning: true, Do: lives(func(s *x509svid.SVID) time.Time {
			leaf := s.Certificates[0]
			return leaf.NotAfter.Add(-leaf.NotAfter.Sub(leaf.NotBefore) / svidWarning)
		})},
		{Name: "crl", Do: collateral.checkFresh},
		{Name: "crl expires", Warning: true, Do: collateral.checkExpiry},
		{Name: "log", Do: func() error {
			if at := b.publisher.State().At; time.Since(at) > lagLimit {
				return errors.New("the log has lacked leaves of the store for more than " + lagLimit.String())
			}
			return nil
		}},
	}...), append(gauges, []health.Gauge{
		{Name: "log_size", Help: "Leaves in the log.", Read: func() float64 { return float64(b.publisher.State().Tree.Size) }},
		{Name: "log_complete_timestamp_seconds", Help: "When the log had all that the store had.", Read: func() float64 {
			return float64(b.publisher.State().At.Unix())
		}},
		{Name: "crl_next_update_timestamp_seconds", Help: "When the first of the newest CRLs expires.", Read: collateral.runsOut},
		{Name: "svid_not_after_timestamp_seconds", Help: "When the server's own SVID expires.", Read: func() float64 {
			svid, err := svids.GetX509SVID()
			if err != nil {
				return 0
			}
			return float64(svid.Certificates[0].NotAfter.Unix())
		}},
	}...))
}

// health returns the checks and metrics of the store's engine.
func (b book) health() ([]health.Check, []health.Gauge) {
	size := health.Gauge{Name: "store_bytes", Help: "Size of the store."}
	if b.file != nil {
		size.Read = func() float64 {
			n, err := b.file.Size()
			if err != nil {
				return 0
			}
			return float64(n)
		}
		return []health.Check{{Name: "store", Fatal: true, Do: b.file.Broken}}, []health.Gauge{size}
	}
	state := recent(func() etcdkv.State { return b.cluster.State(context.Background()) })
	reachable := recent(func() error { return b.cluster.Reachable(context.Background()) })
	size.Read = func() float64 { return float64(state().Size) }
	return []health.Check{
			{Name: "store", Do: reachable},
			{Name: "store alarm", Do: func() error { return state().Alarm }},
			{Name: "store member", Warning: true, Do: func() error { return state().Silent }},
			{Name: "store runs full", Warning: true, Do: func() error { return state().Full }},
			{Name: "clock", Do: b.members.Clock},
		}, []health.Gauge{size, {Name: "replicas", Help: "Servers that share the store and gave a sign of life lately.",
			Read: func() float64 { return float64(len(b.members.Alive())) }}}
}

// recentFor is how long an answer of a cluster is used again, because checks are frequent.
const recentFor = 3 * time.Second

// recent asks again only if the last answer is not recent.
func recent[Answer any](ask func() Answer) func() Answer {
	var mu sync.Mutex // guards the variables below
	var last Answer
	var at time.Time
	return func() Answer {
		mu.Lock()
		defer mu.Unlock()
		if time.Since(at) > recentFor {
			last, at = ask(), time.Now()
		}
		return last
	}
}
