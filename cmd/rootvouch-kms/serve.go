package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
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

	"github.com/rootvouch/rootvouch/evidence/kept"
	"github.com/rootvouch/rootvouch/internal/command"
	"github.com/rootvouch/rootvouch/kms/admin"
	"github.com/rootvouch/rootvouch/kms/audit"
	"github.com/rootvouch/rootvouch/kms/server"
	"github.com/rootvouch/rootvouch/kms/tlogdir"
	"github.com/rootvouch/rootvouch/kms/witness"
)

// retryWindow is how long a guest may repeat an identical request whose reply was lost. It is
// longer than a guest's patience. So a guest gets its key from a server that comes back within
// that patience.
const retryWindow = 210 * time.Second

// gcPercent lets the heap grow to four times the live data before a collection, because the
// live data are few and each request leaves much garbage.
const gcPercent = 300

// agentStep is the wait between two tries of the Workload API.
const agentStep = 200 * time.Millisecond

func newServeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve --config FILE",
		Short: "Serve keys until SIGTERM",
		Long: `Serve keys until SIGTERM or SIGINT, then finish the requests in progress.

The server gets its own SVID and the trust bundle from the SPIRE agent, and waits
for them. Both may rotate while it serves. When callers can reach the server, it prints
one line:

    rootvouch-kms: serving on 127.0.0.1:8443 as spiffe://example.org/kms

Its log goes to standard error. SIGHUP makes it read the collateral again, and ends
nothing. It reports to systemd that it serves and that it is alive (Type=notify,
WatchdogSec=). If the file of its store becomes unusable, it ends with an error. A
server with a store in etcd keeps running, and releases keys again when the cluster has
recovered.`,
		Example: "  rootvouch-kms serve --config /etc/rootvouch-kms/kms.json",
		Args:    command.NoArguments,
	}
	path := configFlag(cmd)
	command.Reloads(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		// This comes first, so that SIGHUP does not end a server that waits for its SVID.
		hangups := make(chan os.Signal, 1)
		signal.Notify(hangups, unix.SIGHUP)
		defer signal.Stop(hangups)
		c, err := loadConfig(*path)
		if err != nil {
			return err
		}
		log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil))
		err = serve(cmd.Context(), c, log, hangups, func(address string) {
			fmt.Fprintf(cmd.OutOrStdout(), "rootvouch-kms: serving on %s as %s\n", address, c.id)
		})
		if cmd.Context().Err() != nil && errors.Is(err, context.Canceled) {
			return nil // stopped while it waited for its SVID
		}
		return err
	}
	return cmd
}

func serve(ctx context.Context, c config, log *slog.Logger, hangups <-chan os.Signal, ready func(address string)) error {
	// The memory has keys, so forbid core files.
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbidding core files: %w", err)
	}
	debug.SetGCPercent(gcPercent)
	b, err := openBook(ctx, c, log)
	if err != nil {
		return err
	}
	defer b.close(log)
	source, err := openSource(ctx, c, log)
	if err != nil {
		return err
	}
	defer source.Close()
	collateral := newCollateralDir(c.CollateralDir, time.Now, log)
	if _, err := collateral.get(); err != nil {
		return err
	}
	keeping, err := kept.Open(c.EvidenceDir)
	if err != nil {
		return err
	}
	callers, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return err
	}
	owner, err := admin.Listen(c.AdminSocket, c.roles)
	if err != nil {
		callers.Close()
		return err
	}
	var health net.Listener
	if c.HealthListen != "" {
		if health, err = net.Listen("tcp", c.HealthListen); err != nil {
			callers.Close()
			owner.Close()
			return err
		}
	}
	// If store and log were put back, the server must not release again what it released
	// before.
	if err := startWithWitnesses(ctx, c, b, log); err != nil {
		callers.Close()
		owner.Close()
		if health != nil {
			health.Close()
		}
		return err
	}
	// No key-encryption key may seal before it is on the store's list.
	err = b.ledger.Records.Admit(ctx)
	if err == nil {
		err = b.ledger.Note(ctx, audit.Entry{Event: audit.Start, About: audit.AboutStart{SPIFFEID: c.id.String()}})
	}
	if err != nil {
		callers.Close()
		owner.Close()
		if health != nil {
			health.Close()
		}
		return err
	}
	// Requests write to the log until they end, so the publisher ends after them.
	serving, stopped := context.WithCancel(context.WithoutCancel(ctx))
	published := make(chan error, 1)
	go func() { published <- b.publisher.Run(serving, b.ledger.Written()) }()
	well := newHealth(c, b, source, collateral, log)
	group, ctx := errgroup.WithContext(ctx)
	if health != nil {
		group.Go(func() error { return well.Serve(ctx, health) })
	}
	group.Go(func() error { return c.witnesses.Run(ctx, b.witnessed(c), b.publisher.State, log) })
	if b.members != nil {
		group.Go(func() error { return b.members.Run(ctx) })
	}
	for _, f := range []func(){
		func() { well.Watch(ctx) },
		func() { watchdog(ctx, well.Live) },
		func() { reloadOnHangup(ctx, hangups, collateral, log) },
	} {
		group.Go(func() error { f(); return nil })
	}
	group.Go(func() error {
		return server.New(server.Config{
			ID: c.id, SVID: source, Bundle: source, Ledger: b.ledger, Collateral: collateral.get, Kept: keeping, Answered: well.Answered, Refused: well.Refused,
			Clock: time.Now, Rand: rand.Reader, Log: log,
		}).Serve(ctx, callers)
	})
	group.Go(func() error {
		a := admin.New(c.id, b.ledger, b.publisher.State, log)
		a.Recipients, a.Watch = c.export, admin.Watch{Log: tlogdir.Dir(c.LogDir), CRLs: collateral.pageCRLs, Lacks: collateral.lacks, Ill: well.Ready}
		if b.members != nil {
			a.Lack = b.members.Lack
		}
		return a.Serve(ctx, owner)
	})
	group.Go(func() error {
		var err error
		select {
		case <-b.failed():
		case err = <-published:
			published <- err
		case <-ctx.Done():
			return nil
		}
		select { // the publisher may have noticed first
		case <-b.failed():
			return errors.New("the store failed: the server stops")
		default:
			return err
		}
	})
	if err := notify("READY=1"); err != nil {
		log.Warn("systemd", "err", err)
	}
	ready(callers.Addr().String())
	err = group.Wait()
	notify("STOPPING=1")
	stopped()
	return errors.Join(err, <-published)
}

// startWithWitnesses has the witnesses cosign the present log. If a witness does not answer,
// the server starts anyway. If a witness has seen more leaves, the server does not start.
func startWithWitnesses(ctx context.Context, c config, b book, log *slog.Logger) error {
	now := b.publisher.State()
	err := c.witnesses.Cosign(ctx, b.witnessed(c), now.Tree, now.Checkpoint)
	if err != nil && !errors.Is(err, witness.ErrAhead) {
		log.Warn("the log is not cosigned", "err", err)
		return nil
	}
	return err
}

// reloadOnHangup reads the collateral again at each SIGHUP, until ctx is done.
func reloadOnHangup(ctx context.Context, hangups <-chan os.Signal, collateral *collateralDir, log *slog.Logger) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-hangups:
			var now unix.Timespec
			unix.ClockGettime(unix.CLOCK_MONOTONIC, &now)
			notify(fmt.Sprintf("RELOADING=1\nMONOTONIC_USEC=%d", now.Nano()/1000))
			collateral.reload()
			_, err := collateral.get()
			log.Info("read the collateral again", "err", err)
			notify("READY=1")
		}
	}
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
		log.Warn("the agent gives other SVIDs but not this one", "spiffe_id", c.id)
		if err := source.WaitUntilUpdated(ctx); err != nil {
			return nil, errors.Join(fmt.Errorf("getting the SVID: %w", err), source.Close())
		}
	}
}

// pick returns the SVID with an ID, or nil.
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

// agentLog logs each error of the Workload API once, and not at each try.
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
