package store

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/rootvouch/rootvouch/kms/audit"
	"github.com/rootvouch/rootvouch/kms/kek"
	"github.com/rootvouch/rootvouch/kms/kv"
	"github.com/rootvouch/rootvouch/kms/tlogdir"
)

// Labels of what is sealed, and of the store.
const (
	storeLabel    = "rootvouch kms store v2"
	recordLabel   = "rootvouch kms record v2"
	logKeyLabel   = "rootvouch kms log key v1"
	nonceKeyLabel = "rootvouch kms nonce key v1"
)

// ErrWrongKEK says that the store belongs to another key-encryption key.
var ErrWrongKEK = errors.New("store belongs to another key-encryption key")

// meta is what Create made.
type meta struct {
	Format    string `json:"format"`     // storeLabel
	Cluster   string `json:"cluster"`    // random, hex: tells stores apart
	LogPublic string `json:"log_public"` // verification key of the log, as in signed notes
	LogKey    []byte `json:"log_key"`    // signing key of the log, sealed
	NonceKey  []byte `json:"nonce_key"`  // sealed
}

// Keys are the cluster's own secrets.
type Keys struct {
	Log   note.Signer
	Nonce []byte // 32 bytes
}

// LogOrigin is the log's name.
func (s *Store) LogOrigin() string { return s.keys.Log.Name() }

// LogPublic is the log's verification key, NAME+HASH+KEY.
func (s *Store) LogPublic() string { return s.meta.LogPublic }

// Keys returns the cluster's secrets.
func (s *Store) Keys() Keys { return s.keys }

// Create makes an empty store in an engine, with the first leaf of a lane: its log has the
// name origin. The error matches os.ErrExist when there is a store already.
func Create(ctx context.Context, e kv.Engine, k *kek.KEK, rand io.Reader, origin, lane string, now time.Time) error {
	if err := create(ctx, e, k, rand, origin, lane, now); err != nil {
		return fmt.Errorf("creating store: %w", err)
	}
	return nil
}

func create(ctx context.Context, e kv.Engine, k *kek.KEK, rand io.Reader, origin, lane string, now time.Time) error {
	if err := audit.CheckLane(lane); err != nil {
		return err
	}
	var secrets [48]byte // a cluster's name and the nonce key
	if _, err := io.ReadFull(rand, secrets[:]); err != nil {
		return err
	}
	m := meta{Format: storeLabel, Cluster: hex.EncodeToString(secrets[:16])}
	private, public, err := tlogdir.NewKey(rand, origin)
	if err != nil {
		return err
	}
	m.LogPublic = public
	if m.LogKey, err = k.Seal(rand, []byte(private), kek.About(logKeyLabel, []byte(m.Cluster))); err != nil {
		return err
	}
	if m.NonceKey, err = k.Seal(rand, secrets[16:], kek.About(nonceKeyLabel, []byte(m.Cluster))); err != nil {
		return err
	}
	signer, err := note.NewSigner(private)
	if err != nil {
		return err
	}
	empty, err := tlogdir.Sign(tlogdir.Tree{Origin: origin}, signer)
	if err != nil {
		return err
	}
	leaf, head := audit.Encode(lane, audit.Head{}, now, audit.Entry{Event: audit.Init, About: audit.AboutInit{Origin: origin}})
	ok, err := e.Commit(ctx, []kv.Cond{{Key: keyMeta}}, []kv.Write{
		{Key: keyMeta, Value: encodeJSON(m)},
		{Key: KeyEpoch},
		{Key: KeyCopies},
		SetCheckpoint(Checkpoint{Signed: string(empty), Lanes: audit.Lanes{}, By: lane}),
		SetCopy(lane, Copy{Lanes: audit.Lanes{}}),
		SetSegment(lane, 1, [][]byte{leaf}),
		SetLane(lane, Lane{Head: head, Time: now.UTC().Round(0)}),
	})
	if err != nil || ok {
		return err
	}
	made, err := readMeta(ctx, e)
	if err == nil && made.Cluster != m.Cluster { // else it is ours, delivered twice
		err = os.ErrExist
	}
	return err
}

// readMeta reads what Create made.
func readMeta(ctx context.Context, e kv.Engine) (meta, error) {
	var m meta
	items, err := e.Get(ctx, keyMeta)
	switch {
	case err != nil:
		return m, err
	case items[0].Mod == 0:
		return m, errors.New("there is none here: rootvouch-kms init makes one")
	}
	if err := decodeItem(items[0], &m); err != nil {
		return m, err
	}
	if m.Format != storeLabel {
		return m, fmt.Errorf("format is %q, want %q", m.Format, storeLabel)
	}
	return m, nil
}

// Open reads a store that Create made. The error matches ErrWrongKEK when it was made for
// another key-encryption key than k.
func Open(ctx context.Context, e kv.Engine, k *kek.KEK, rand io.Reader) (*Store, error) {
	s := &Store{Engine: e, kek: k, rand: rand}
	if err := s.open(ctx); err != nil {
		return nil, fmt.Errorf("opening store: %w", err)
	}
	return s, nil
}

func (s *Store) open(ctx context.Context) error {
	var err error
	if s.meta, err = readMeta(ctx, s.Engine); err != nil {
		return err
	}
	private, err := s.kek.Open(s.meta.LogKey, kek.About(logKeyLabel, []byte(s.meta.Cluster)))
	if err != nil {
		return ErrWrongKEK
	}
	if s.keys.Nonce, err = s.kek.Open(s.meta.NonceKey, kek.About(nonceKeyLabel, []byte(s.meta.Cluster))); err != nil {
		return ErrWrongKEK
	}
	if s.keys.Log, err = note.NewSigner(string(private)); err != nil {
		return fmt.Errorf("log key: %w", err)
	}
	return nil
}

// Checkpoint reads what the log has.
func (s *Store) Checkpoint(ctx context.Context) (Checkpoint, error) {
	items, err := s.Engine.Get(ctx, KeyCheckpoint)
	if err != nil {
		return Checkpoint{}, err
	}
	return CheckpointOf(items[0])
}
