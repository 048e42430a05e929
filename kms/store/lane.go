package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/rootvouch/rootvouch/kms/audit"
	"github.com/rootvouch/rootvouch/kms/kv"
)

// Lane is the end of a replica's lane.
type Lane struct {
	audit.Head
	// Token is the token of the last transaction. Its proposer recognizes it, and so knows that
	// the transaction happened.
	Token Token `json:"token"`
	// Time is the latest time of the lane's leaves.
	Time time.Time `json:"time"`
}

// Prefixes of the keys of lanes and of their segments.
const (
	PrefixLane = "lane/"
	prefixSeg  = "seg/"
)

// KeyLane is the key of the end of a lane.
func KeyLane(lane string) string { return PrefixLane + lane }

// LaneOf decodes the item of a lane's end. Without an item it returns the zero Lane.
func LaneOf(item kv.Item) (Lane, error) {
	var l Lane
	if item.Mod == 0 {
		return l, nil
	}
	return l, decodeItem(item, &l)
}

// SetLane makes the item of a lane's end.
func SetLane(lane string, l Lane) kv.Write {
	return kv.Write{Key: KeyLane(lane), Value: encodeJSON(l)}
}

// PrefixSegments is the prefix of the segments of a lane, in the order of their sequence.
func PrefixSegments(lane string) string { return prefixSeg + lane + "/" }

// SetSegment makes the item of consecutive leaves of a lane. first is the sequence of the first
// leaf.
func SetSegment(lane string, first uint64, leaves [][]byte) kv.Write {
	var value []byte
	for _, leaf := range leaves {
		value = binary.BigEndian.AppendUint16(value, uint16(len(leaf)))
		value = append(value, leaf...)
	}
	return kv.Write{Key: KeySegment(lane, first), Value: value}
}

// KeySegment is the key of the segment that begins with the leaf of this sequence.
func KeySegment(lane string, first uint64) string {
	return fmt.Sprintf("%s%020d", PrefixSegments(lane), first)
}

// SegmentOf reads the leaves of a segment.
func SegmentOf(item kv.Item) ([][]byte, error) {
	var leaves [][]byte
	for rest := item.Value; len(rest) > 0; {
		if len(rest) < 2 || len(rest)-2 < int(binary.BigEndian.Uint16(rest)) {
			return nil, fmt.Errorf("key %q: %w", item.Key, errors.New("segment is truncated"))
		}
		n := 2 + int(binary.BigEndian.Uint16(rest))
		leaves, rest = append(leaves, rest[2:n]), rest[n:]
	}
	return leaves, nil
}

// Checkpoint is the published state of the log.
type Checkpoint struct {
	Signed string      `json:"signed"` // as in the log's directory
	Lanes  audit.Lanes `json:"lanes"`
	By     string      `json:"by"` // the replica that published it
}

// CheckpointOf reads the item of the checkpoint.
func CheckpointOf(item kv.Item) (Checkpoint, error) {
	var c Checkpoint
	return c, decodeItem(item, &c)
}

// SetCheckpoint makes the item of the checkpoint.
func SetCheckpoint(c Checkpoint) kv.Write { return kv.Write{Key: KeyCheckpoint, Value: encodeJSON(c)} }

// Copy is the state of a replica's directory of the log. A segment stays in the store until all
// replicas have it.
type Copy struct {
	Size  int64       `json:"size"` // leaves
	Root  tlog.Hash   `json:"root"` // root of the tree of these leaves
	Lanes audit.Lanes `json:"lanes"`
}

// PrefixCopy is the prefix of the copies.
const PrefixCopy = "copy/"

// KeyCopy is the key of a replica's copy.
func KeyCopy(replica string) string { return PrefixCopy + replica }

// KeyCopies is written whenever a copy is added or removed.
const KeyCopies = "copies"

// CopyOf reads the item of a copy.
func CopyOf(item kv.Item) (Copy, error) {
	var c Copy
	return c, decodeItem(item, &c)
}

// SetCopy makes the item of a copy.
func SetCopy(replica string, c Copy) kv.Write {
	return kv.Write{Key: KeyCopy(replica), Value: encodeJSON(c)}
}
