package store

import (
	"context"
	"crypto/sha256"
	"fmt"

	"github.com/rootvouch/rootvouch/kms/kv"
	"github.com/rootvouch/rootvouch/pins"
)

// chunkSize is the largest part of a blob in one item, in bytes. One chunk fits into a
// transaction.
const chunkSize = 512 << 10

func keyChunk(digest pins.Digest, i int) string {
	return fmt.Sprintf("%s%s/%03d", prefixBlob, digest, i)
}

// PutBlob makes contents durable under their SHA-256. If the contents are there, it writes
// nothing. No item names the contents yet: if the server stops now, they stay unused.
func (s *Store) PutBlob(ctx context.Context, data []byte) (pins.Digest, error) {
	digest := pins.Digest(sha256.Sum256(data))
	if _, known := s.blobs.Load(digest); known {
		return digest, nil
	}
	items, err := s.Engine.Get(ctx, keyChunk(digest, 0))
	if err != nil {
		return digest, err
	}
	if items[0].Mod == 0 {
		// The first chunk is written last. It shows that all chunks are there.
		for i := (len(data) - 1) / chunkSize; i >= 0; i-- {
			chunk := data[i*chunkSize : min(len(data), (i+1)*chunkSize)]
			if _, err := s.Engine.Commit(ctx, nil, []kv.Write{{Key: keyChunk(digest, i), Value: chunk}}); err != nil {
				return digest, fmt.Errorf("storing contents %s: %w", digest, err)
			}
		}
	}
	s.blobs.Store(digest, nil)
	return digest, nil
}

// Blob reads contents and verifies their digest.
func (s *Store) Blob(ctx context.Context, digest pins.Digest) ([]byte, error) {
	var data []byte
	err := kv.Each(ctx, s.Engine, prefixBlob+digest.String()+"/", func(item kv.Item) error {
		data = append(data, item.Value...)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if got := pins.Digest(sha256.Sum256(data)); got != digest {
		return nil, fmt.Errorf("reading contents %s: SHA-256 is %s", digest, got)
	}
	return data, nil
}

// Values returns the newest refval.json of the record r, or nil if it has none.
func (s *Store) Values(ctx context.Context, r Record) ([]byte, error) {
	if r.ReferenceValues == (pins.Digest{}) {
		return nil, nil
	}
	data, err := s.Blob(ctx, r.ReferenceValues)
	if err != nil {
		return nil, fmt.Errorf("disk %s: %w", r.DiskUUID, err)
	}
	return data, nil
}
