package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"

	"github.com/rootvouch/rootvouch/internal/command"
	"github.com/rootvouch/rootvouch/kms/admin"
	"github.com/rootvouch/rootvouch/kms/audit"
	"github.com/rootvouch/rootvouch/kms/ledger"
	"github.com/rootvouch/rootvouch/kms/server"
	"github.com/rootvouch/rootvouch/kms/store"
)

// retryWindow is how long a reply that was lost may be asked for again, with the
// very same request.
const retryWindow = 30 * time.Second

// agentStep is the wait between two tries of the Workload API.
const agentStep = 200 * time.Millisecond

func newServeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve --config FILE",
		Short: "Serve keys until SIGTERM",
		Long: `Serve keys until SIGTERM or SIGINT, then finish what is under way.

The server gets its own SVID and the trust bundle from the SPIRE agent, and waits
for them; both may rotate while it serves. When callers can reach it, it prints
one line:

  rootvouch-kms: serving on 127.0.0.1:8443 as spiffe://example.org/kms

Its log goes to standard error.`,
		Example: "  rootvouch-kms serve --config /etc/rootvouch-kms/kms.json",
		Args:    command.NoArguments,
	}
	path := configFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := loadConfig(*path)
		if err != nil {
			return err
		}
		log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
		err = serve(cmd.Context(), c, log, func(address string) {
			fmt.Fprintf(cmd.OutOrStdout(), "rootvouch-kms: serving on %s as %s\n", address, c.id)
		})
		if cmd.Context().Err() != nil && errors.Is(err, context.Canceled) {
			return nil // stopped while it was waiting for its SVID
		}
		return err
	}
	return cmd
}

func serve(ctx context.Context, c config, log *slog.Logger, ready func(address string)) error {
	// Keys are in memory: no core file.
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbidding core files: %w", err)
	}
	book, closeBook, err := openLedger(c)
	if err != nil {
		return err
	}
	defer closeBook(log)
	source, err := openSource(ctx, c, log)
	if err != nil {
		return err
	}
	defer source.Close()
	collateral := newCollateralDir(c.CollateralDir, time.Now, log)
	if _, err := collateral.get(); err != nil {
		return err
	}
	callers, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return err
	}
	owner, err := admin.Listen(c.AdminSocket)
	if err != nil {
		callers.Close()
		return err
	}
	if err := book.Note(audit.Entry{Event: audit.Start, SPIFFEID: c.id.String()}); err != nil {
		callers.Close()
		owner.Close()
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		return server.New(server.Config{
			ID: c.id, SVID: source, Bundle: source, Ledger: book, Collateral: collateral.get,
			Clock: time.Now, Rand: rand.Reader, Log: log,
		}).Serve(ctx, callers)
	})
	group.Go(func() error { return admin.New(c.id, book, log).Serve(ctx, owner) })
	ready(callers.Addr().String())
	return group.Wait()
}

// openLedger opens the store and the audit log, which must fit each other.
func openLedger(c config) (*ledger.Ledger, func(*slog.Logger), error) {
	k, err := c.KEK.Load(credentials())
	if err != nil {
		return nil, nil, err
	}
	s, err := store.Open(c.Store, k, rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	book, err := ledger.Open(s, c.AuditLog, time.Now, retryWindow)
	if err != nil {
		return nil, nil, errors.Join(err, s.Close())
	}
	closeBook := func(l *slog.Logger) {
		if err := book.Close(); err != nil {
			l.Error("closing", "err", err)
		}
	}
	return book, closeBook, nil
}

// openSource waits until the SPIRE agent gives the server its SVID.
func openSource(ctx context.Context, c config, log *slog.Logger) (*workloadapi.X509Source, error) {
	log.Info("waiting for the SVID", "workload_api", c.WorkloadAPI, "spiffe_id", c.id)
	source, err := workloadapi.NewX509Source(ctx,
		workloadapi.WithDefaultX509SVIDPicker(pick(c.id)),
		workloadapi.WithClientOptions(
			workloadapi.WithAddr(c.WorkloadAPI),
			workloadapi.WithBackoffStrategy(steady{}),
			workloadapi.WithLogger(&agentLog{log: log}),
			workloadapi.WithDialOptions(grpc.WithConnectParams(grpc.ConnectParams{
				Backoff:           backoff.Config{BaseDelay: agentStep, Multiplier: 1, MaxDelay: agentStep},
				MinConnectTimeout: time.Second,
			}))))
	if err != nil {
		return nil, fmt.Errorf("getting the SVID: %w", err)
	}
	for {
		if _, err := source.GetX509SVID(); err == nil {
			return source, nil
		}
		log.Warn("the agent gives other SVIDs, not this one", "spiffe_id", c.id)
		if err := source.WaitUntilUpdated(ctx); err != nil {
			return nil, errors.Join(fmt.Errorf("getting the SVID: %w", err), source.Close())
		}
	}
}

// pick takes the SVID of an ID, and none if there is no such.
func pick(id spiffeid.ID) func([]*x509svid.SVID) *x509svid.SVID {
	return func(all []*x509svid.SVID) *x509svid.SVID {
		for _, svid := range all {
			if svid.ID == id {
				return svid
			}
		}
		return nil
	}
}

// agentLog says what is wrong with the Workload API, once for each thing and not at
// each try.
type agentLog struct {
	log  *slog.Logger
	mu   sync.Mutex // guards last
	last string
}

func (l *agentLog) Errorf(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	l.mu.Lock()
	defer l.mu.Unlock()
	if line != l.last {
		l.last = line
		l.log.Warn("SPIRE agent", "err", line)
	}
}

func (l *agentLog) Debugf(string, ...any) {}
func (l *agentLog) Infof(string, ...any)  {}
func (l *agentLog) Warnf(string, ...any)  {}

// steady is a Workload API backoff that does not grow.
type steady struct{}

func (steady) NewBackoff() workloadapi.Backoff { return steady{} }
func (steady) Next() time.Duration             { return agentStep }
func (steady) Reset()                          {}
