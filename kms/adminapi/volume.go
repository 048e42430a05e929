package adminapi

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/rootvouch/rootvouch/kms/keyapi"
	"github.com/rootvouch/rootvouch/pins"
)

// VolumePolicy says how launches share a volume that is written, and what becomes of one
// that was not closed. The words are package store's.
type VolumePolicy struct {
	// Writers is "exclusive" or "takeover".
	Writers string `json:"writers"`
	// Unclean is "refuse" or "accept".
	Unclean string `json:"unclean"`
}

// Volume is what the server tells of a volume's contents.
type Volume struct {
	Version  int       `json:"version"`
	DiskUUID pins.UUID `json:"disk_uuid"`
	VolumePolicy
	// State is "new", "open", "closed", "unclean" or "retired".
	State string `json:"state"`
	// Generation counts the closes, and Digest is of the last one.
	Generation uint64      `json:"generation"`
	Digest     pins.Digest `json:"digest,omitzero"`
	// Launch has it open, or closed it last.
	Launch string `json:"launch,omitempty"`
	// Found is what the launch that has it open was told.
	Found keyapi.Found `json:"found,omitzero"`
	// Accepted says that the next launch may open it whatever it holds.
	Accepted bool      `json:"accepted"`
	Changed  time.Time `json:"changed"`
}

// VolumeWord is what the operator says of a volume.
type VolumeWord string

// The words.
const (
	VolumeFree    VolumeWord = "free"    // the launch that has it is gone
	VolumeAccept  VolumeWord = "accept"  // the next launch may open it whatever it holds
	VolumeRestore VolumeWord = "restore" // it holds what has this digest
	VolumeRetire  VolumeWord = "retire"  // no launch gets it any more
	VolumeReset   VolumeWord = "reset"   // the next launch formats it
)

// SayVolume is the body of a POST that says a word.
type SayVolume struct {
	Version int `json:"version"`
	// Digest goes with VolumeRestore alone.
	Digest pins.Digest `json:"digest,omitzero"`
}

// PathVolume is where the state of a volume is; the words are below it.
func PathVolume(disk pins.UUID) string { return PathDisks + "/" + disk.String() + "/volume" }

// Volume returns the state of a volume.
func (c *Client) Volume(ctx context.Context, disk pins.UUID) (Volume, error) {
	var v Volume
	err := c.do(ctx, http.MethodGet, PathVolume(disk), nil, &v)
	return v, err
}

// SayVolume says a word about a volume, and returns its state afterwards. The error is an
// *Error with status 409 when it does not fit the state.
func (c *Client) SayVolume(ctx context.Context, disk pins.UUID, word VolumeWord, digest pins.Digest) (Volume, error) {
	body, err := json.Marshal(SayVolume{Version, digest})
	if err != nil {
		return Volume{}, err
	}
	var v Volume
	err = c.do(ctx, http.MethodPost, PathVolume(disk)+"/"+string(word), body, &v)
	return v, err
}
