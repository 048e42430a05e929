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
	// Token is that of the last transaction: who proposed it knows that it happened.
	Token Token `json:"token"`
	// Time is the latest of its leaves' times.
	Time time.Time `json:"time"`
}

// Prefixes of lanes and of their segments.
const (
	PrefixLane = "lane/"
	prefixSeg  = "seg/"
)

// KeyLane is where the end of a lane is.
func KeyLane(lane string) string { return PrefixLane + lane }

// LaneOf reads the item of a lane's end; the zero Lane where there is none.
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

// PrefixSegments is where the segments of a lane are, in the order of their sequence.
func PrefixSegments(lane string) string { return prefixSeg + lane + "/" }

// SetSegment makes the item of leaves of a lane, the first of which has a sequence.
func SetSegment(lane string, first uint64, leaves [][]byte) kv.Write {
	var value []byte
	for _, leaf := range leaves {
		value = binary.BigEndian.AppendUint16(value, uint16(len(leaf)))
		value = append(value, leaf...)
	}
	return kv.Write{Key: KeySegment(lane, first), Value: value}
}

// KeySegment is where the segment is whose first leaf has a sequence.
func KeySegment(lane string, first uint64) string {
	return fmt.Sprintf("%s%020d", PrefixSegments(lane), first)
}

// SegmentOf reads the leaves of a segment.
func SegmentOf(item kv.Item) ([][]byte, error) {
	var leaves [][]byte
	for rest := item.Value; len(rest) > 0; {
		if len(rest) < 2 || len(rest)-2 < int(binary.BigEndian.Uint16(rest)) {
			return nil, fmt.Errorf("key %q: %w", item.Key, errors.New("segment is cut off"))
		}
		n := 2 + int(binary.BigEndian.Uint16(rest))
		leaves, rest = append(leaves, rest[2:n]), rest[n:]
	}
	return leaves, nil
}

// Checkpoint is what the log has.
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

// Copy is what a replica's directory has of the log. A segment stays in the book until all
// replicas have it.
type Copy struct {
	Size  int64       `json:"size"` // leaves
	Root  tlog.Hash   `json:"root"` // of the tree that they make
	Lanes audit.Lanes `json:"lanes"`
}

// PrefixCopy is where the copies are.
const PrefixCopy = "copy/"

// KeyCopy is where a replica's copy is.
func KeyCopy(replica string) string { return PrefixCopy + replica }

// KeyCopies is written whenever a copy comes or goes.
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
