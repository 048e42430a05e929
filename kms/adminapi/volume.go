package adminapi

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/rootvouch/rootvouch/kms/keyapi"
	"github.com/rootvouch/rootvouch/pins"
)

// VolumePolicy says how launches share a writable volume, and what happens to a volume that was
// not closed. The words are those of package store.
type VolumePolicy struct {
	// Writers is "exclusive" or "takeover".
	Writers string `json:"writers"`
	// Unclean is "refuse" or "accept".
	Unclean string `json:"unclean"`
}

// Volume is the server's description of a volume's state.
type Volume struct {
	Version  int       `json:"version"`
	DiskUUID pins.UUID `json:"disk_uuid"`
	VolumePolicy
	// State is "new", "open", "closed", "unclean" or "retired".
	State string `json:"state"`
	// Generation counts the closes. Digest is the digest of the last close.
	Generation uint64      `json:"generation"`
	Digest     pins.Digest `json:"digest,omitzero"`
	// Launch names the launch that has the volume open, or that closed it last.
	Launch string `json:"launch,omitempty"`
	// Found is what the server told the launch that has the volume open.
	Found keyapi.Found `json:"found,omitzero"`
	// Accepted says that the next launch may open the volume with any contents.
	Accepted bool      `json:"accepted"`
	Changed  time.Time `json:"changed"`
}

// VolumeWord is an operator's word about a volume.
type VolumeWord string

// The words.
const (
	VolumeFree    VolumeWord = "free"    // the launch that had it open is gone
	VolumeAccept  VolumeWord = "accept"  // the next launch may open it with any contents
	VolumeRestore VolumeWord = "restore" // its contents have this digest
	VolumeRetire  VolumeWord = "retire"  // no further launch gets it
	VolumeReset   VolumeWord = "reset"   // the next launch formats it
)

// SayVolume is the body of a POST that gives an operator's word.
type SayVolume struct {
	Version int `json:"version"`
	// Digest goes with VolumeRestore alone.
	Digest pins.Digest `json:"digest,omitzero"`
}

// PathVolume returns the path of a volume's state. The words are below it.
func PathVolume(disk pins.UUID) string { return PathDisks + "/" + disk.String() + "/volume" }

// Volume returns the state of a volume.
func (c *Client) Volume(ctx context.Context, disk pins.UUID) (Volume, error) {
	var v Volume
	err := c.do(ctx, http.MethodGet, PathVolume(disk), nil, &v)
	return v, err
}

// SayVolume gives the operator's word about a volume and returns the state after it. The error
// is an *Error with status 409 if the word does not fit the state.
func (c *Client) SayVolume(ctx context.Context, disk pins.UUID, word VolumeWord, digest pins.Digest) (Volume, error) {
	body, err := json.Marshal(SayVolume{Version, digest})
	if err != nil {
		return Volume{}, err
	}
	var v Volume
	err = c.do(ctx, http.MethodPost, PathVolume(disk)+"/"+string(word), body, &v)
	return v, err
}
