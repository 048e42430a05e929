package store

import (
	"time"

	"github.com/rootvouch/rootvouch/kms/kv"
)

// Replica is a server's sign of life.
type Replica struct {
	// Process is 16 random bytes, new in each process.
	Process Token     `json:"process"`
	Time    time.Time `json:"time"` // by its clock, UTC
	Version string    `json:"version"`
	// KEKs names the key-encryption keys that the server has.
	KEKs []string `json:"keks"`
}

// PrefixReplica is the prefix of the signs of life.
const PrefixReplica = "replica/"

// KeyReplica is the key of a replica's sign of life.
func KeyReplica(name string) string { return PrefixReplica + name }

// ReplicaOf decodes a sign of life. Without an item it returns the zero Replica.
func ReplicaOf(item kv.Item) (Replica, error) {
	var r Replica
	if item.Mod == 0 {
		return r, nil
	}
	return r, decodeItem(item, &r)
}

// SetReplica makes the item of a sign of life.
func SetReplica(name string, r Replica) kv.Write {
	return kv.Write{Key: KeyReplica(name), Value: encodeJSON(r)}
}
