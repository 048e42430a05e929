package store

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/rootvouch/rootvouch/kms/audit"
	"github.com/rootvouch/rootvouch/kms/kek"
	"github.com/rootvouch/rootvouch/kms/kv"
	"github.com/rootvouch/rootvouch/kms/tlogdir"
)

// Labels of the seals and of the store.
const (
	storeLabel    = "rootvouch kms store v2"
	recordLabel   = "rootvouch kms record v2"
	logKeyLabel   = "rootvouch kms log key v1"
	nonceKeyLabel = "rootvouch kms nonce key v1"
)

// ErrWrongKEK says that the store belongs to another key-encryption key.
var ErrWrongKEK = errors.New("store belongs to another key-encryption key")

// meta is the item that Create makes.
type meta struct {
	Format    string `json:"format"`     // storeLabel
	Cluster   string `json:"cluster"`    // random, hex: distinguishes stores
	LogPublic string `json:"log_public"` // verification key of the log, as in signed notes
	// KEKs names the key-encryption keys that may seal a secret.
	KEKs     []string   `json:"keks"`
	LogKey   kek.Sealed `json:"log_key"`   // signing key of the log
	NonceKey kek.Sealed `json:"nonce_key"` // see the key API
}

// Keys are the secrets of the cluster itself.
type Keys struct {
	Log   note.Signer
	Nonce []byte // 32 bytes
}

// LogOrigin returns the log's name.
func (s *Store) LogOrigin() string { return s.keys.Log.Name() }

// LogPublic returns the log's verification key, NAME+HASH+KEY.
func (s *Store) LogPublic() string { return s.meta.LogPublic }

// Keys returns the cluster's secrets.
func (s *Store) Keys() Keys { return s.keys }

// Create makes an empty store in an engine, and the first leaf of a lane. origin is the name of
// its log. The error matches os.ErrExist if there is a store already.
func Create(ctx context.Context, e kv.Engine, k *kek.Ring, rand io.Reader, origin, lane string, now time.Time) error {
	if err := create(ctx, e, k, rand, origin, lane, now); err != nil {
		return fmt.Errorf("creating store: %w", err)
	}
	return nil
}

func create(ctx context.Context, e kv.Engine, k *kek.Ring, rand io.Reader, origin, lane string, now time.Time) error {
	if err := audit.CheckLane(lane); err != nil {
		return err
	}
	var secrets [48]byte // the cluster's name and the nonce key
	if _, err := io.ReadFull(rand, secrets[:]); err != nil {
		return err
	}
	m := meta{Format: storeLabel, Cluster: hex.EncodeToString(secrets[:16]), KEKs: []string{k.Current()}}
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
	revision, err := e.Commit(ctx, []kv.Cond{{Key: KeyMeta}}, []kv.Write{
		{Key: KeyMeta, Value: encodeJSON(m)},
		{Key: KeyEpoch},
		{Key: KeyCopies},
		SetCheckpoint(Checkpoint{Signed: string(empty), Lanes: audit.Lanes{}, By: lane}),
		SetCopy(lane, Copy{Lanes: audit.Lanes{}}),
		SetSegment(lane, 1, [][]byte{leaf}),
		SetLane(lane, Lane{Head: head, Time: now.UTC().Round(0)}),
	})
	if err != nil || revision != 0 {
		return err
	}
	made, err := readMeta(ctx, e)
	if err == nil && made.Cluster != m.Cluster { // the same cluster means that our own write was delivered twice
		err = os.ErrExist
	}
	return err
}

// readMeta reads the item that Create made.
func readMeta(ctx context.Context, e kv.Engine) (meta, error) {
	var m meta
	items, err := e.Get(ctx, KeyMeta)
	switch {
	case err != nil:
		return m, err
	case items[0].Mod == 0:
		return m, errors.New("no store is here: make one with rootvouch-kms init")
	}
	if err := decodeItem(items[0], &m); err != nil {
		return m, err
	}
	if m.Format != storeLabel {
		return m, fmt.Errorf("format is %q, want %q", m.Format, storeLabel)
	}
	return m, nil
}

// Open reads a store that Create made. The error matches ErrWrongKEK if the store was made with
// a key-encryption key that k lacks.
func Open(ctx context.Context, e kv.Engine, k *kek.Ring, rand io.Reader) (*Store, error) {
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
	for _, name := range s.meta.KEKs {
		if !s.kek.Has(name) {
			return fmt.Errorf("%w: keys in it are sealed under %q, but the configuration has %q", ErrWrongKEK, name, s.kek.Names())
		}
	}
	private, err := s.secret(s.meta.LogKey, logKeyLabel)
	if err != nil {
		return err
	}
	if s.keys.Nonce, err = s.secret(s.meta.NonceKey, nonceKeyLabel); err != nil {
		return err
	}
	if s.keys.Log, err = note.NewSigner(string(private)); err != nil {
		return fmt.Errorf("log key: %w", err)
	}
	return nil
}

// secret opens a secret of the cluster itself.
func (s *Store) secret(sealed kek.Sealed, label string) ([]byte, error) {
	secret, err := s.kek.Open(sealed, kek.About(label, []byte(s.meta.Cluster)))
	if errors.Is(err, kek.ErrWrongKey) {
		return nil, ErrWrongKEK
	}
	return secret, err
}

// Admit adds the current key-encryption key to the store's list of keys that may seal a secret.
// Admit must run before the key seals one.
func (s *Store) Admit(ctx context.Context) error {
	for {
		items, err := s.Engine.Get(ctx, KeyMeta)
		if err != nil {
			return err
		}
		if listed, err := s.Lists(items[0]); listed || err != nil {
			return err
		}
		var m meta
		if err := decodeItem(items[0], &m); err != nil {
			return err
		}
		m.KEKs = append(m.KEKs, s.kek.Current())
		_, err = s.Engine.Commit(ctx, []kv.Cond{{Key: KeyMeta, Mod: items[0].Mod}}, []kv.Write{{Key: KeyMeta, Value: encodeJSON(m)}})
		if err != nil {
			return err
		}
	}
}

// Lists reports whether the store's list, in the item of meta, has the current key-encryption
// key.
func (s *Store) Lists(item kv.Item) (bool, error) {
	var m meta
	if err := decodeItem(item, &m); err != nil {
		return false, err
	}
	return slices.Contains(m.KEKs, s.kek.Current()), nil
}

// Checkpoint reads the published state of the log.
func (s *Store) Checkpoint(ctx context.Context) (Checkpoint, error) {
	items, err := s.Engine.Get(ctx, KeyCheckpoint)
	if err != nil {
		return Checkpoint{}, err
	}
	return CheckpointOf(items[0])
}
