package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/rootvouch/rootvouch/internal/command"
	"github.com/rootvouch/rootvouch/kms/kv"
	"github.com/rootvouch/rootvouch/kms/kv/boltkv"
	"github.com/rootvouch/rootvouch/kms/kv/etcdkv"
	"github.com/rootvouch/rootvouch/kms/ledger"
	"github.com/rootvouch/rootvouch/kms/members"
	"github.com/rootvouch/rootvouch/kms/publish"
	"github.com/rootvouch/rootvouch/kms/store"
	"github.com/rootvouch/rootvouch/kms/tlogdir"
	"github.com/rootvouch/rootvouch/kms/witness"
)

// book is the store and the log of a server.
type book struct {
	keks      *keks
	engine    kv.Engine
	file      *boltkv.Store // the engine, or nil
	cluster   *etcdkv.Store // the engine, or nil
	store     *store.Store
	ledger    *ledger.Ledger
	publisher *publish.Publisher
	members   *members.Members // only with a cluster
}

// openEngine opens the engine of the store.
func openEngine(ctx context.Context, c config) (b book, err error) {
	if c.Etcd != nil {
		if b.cluster, err = etcdkv.Open(ctx, *c.Etcd); err != nil {
			return book{}, err
		}
		b.engine = b.cluster
		return b, nil
	}
	if b.file, err = boltkv.Open(c.Store); err != nil {
		return book{}, err
	}
	b.engine = b.file
	return b, nil
}

// openStore opens the store without the log.
func openStore(ctx context.Context, c config) (book, error) {
	k, err := c.loadKEKs(ctx)
	if err != nil {
		return book{}, err
	}
	b, err := openEngine(ctx, c)
	if err != nil {
		k.Close()
		return book{}, err
	}
	b.keks = k
	if b.store, err = store.Open(ctx, b.engine, k.Ring, rand.Reader); err != nil {
		return book{}, errors.Join(err, b.closeAll())
	}
	b.ledger = ledger.New(b.store, c.lane(), time.Now, rand.Reader, retryWindow)
	b.ledger.Retention = c.retention
	return b, nil
}

// openBook opens the store and the log, which must fit each other.
func openBook(ctx context.Context, c config, log *slog.Logger) (book, error) {
	b, err := openStore(ctx, c)
	if err != nil {
		return book{}, err
	}
	if b.publisher, err = publish.Open(ctx, b.store, c.lane(), c.LogDir, log); err != nil {
		return book{}, errors.Join(err, b.closeAll())
	}
	if b.cluster != nil {
		var process store.Token
		if _, err := io.ReadFull(rand.Reader, process[:]); err != nil {
			return book{}, errors.Join(fmt.Errorf("making this process' token: %w", err), b.closeAll())
		}
		b.members = members.New(b.engine, c.lane(), command.BuildVersion().Version, b.store.KEKs(), process, time.Now, log)
	}
	return b, nil
}

// witnessed is the log that witnesses cosign.
func (b book) witnessed(c config) witness.Log {
	return witness.Log{Dir: tlogdir.Dir(c.LogDir), Newest: b.publisher.Newest}
}

// failed returns a channel that is closed when the store becomes unusable for the rest of this
// process. A cluster never does, because it may recover.
func (b book) failed() <-chan struct{} {
	if b.file != nil {
		return b.file.Failed()
	}
	return nil
}

// closeAll closes the store and the programs that keep keys.
func (b book) closeAll() error {
	b.keks.Close()
	return b.engine.Close()
}

func (b book) close(log *slog.Logger) {
	if err := b.closeAll(); err != nil {
		log.Error("closing the store", "err", err)
	}
}
