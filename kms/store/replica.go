package store

import (
	"time"

	"github.com/rootvouch/rootvouch/kms/kv"
)

// Replica is a server's sign of life.
type Replica struct {
	// Process is 16 random bytes of the process that wrote it.
	Process Token     `json:"process"`
	Time    time.Time `json:"time"` // by its clock, UTC
	Version string    `json:"version"`
	// KEKs are the names of the key-encryption keys that it can open with.
	KEKs []string `json:"keks"`
}

// PrefixReplica is where the signs of life are.
const PrefixReplica = "replica/"

// KeyReplica is where a replica's is.
func KeyReplica(name string) string { return PrefixReplica + name }

// ReplicaOf reads the item of one; the zero Replica where there is none.
func ReplicaOf(item kv.Item) (Replica, error) {
	var r Replica
	if item.Mod == 0 {
		return r, nil
	}
	return r, decodeItem(item, &r)
}

// SetReplica makes the item of one.
func SetReplica(name string, r Replica) kv.Write {
	return kv.Write{Key: KeyReplica(name), Value: encodeJSON(r)}
}
