package admin

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/rootvouch/rootvouch/internal/strictjson"
	"github.com/rootvouch/rootvouch/kms/adminapi"
	"github.com/rootvouch/rootvouch/kms/audit"
	"github.com/rootvouch/rootvouch/kms/ledger"
	"github.com/rootvouch/rootvouch/kms/store"
	"github.com/rootvouch/rootvouch/pins"
)

// volume answers with the state of a volume.
func (a *Admin) volume(_ audit.Actor, r *http.Request) (any, error) {
	disk, err := diskOf(r)
	if err != nil {
		return nil, err
	}
	v, err := a.ledger.Records.Volume(r.Context(), disk)
	if err != nil {
		return nil, err
	}
	return a.viewVolume(r, v)
}

// sayVolume carries out the operator's word about a volume.
func (a *Admin) sayVolume(by audit.Actor, r *http.Request) (any, error) {
	disk, err := diskOf(r)
	if err != nil {
		return nil, err
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", errInvalid, err)
	}
	var said adminapi.SayVolume
	if err := strictjson.Unmarshal(body, &said); err != nil {
		return nil, fmt.Errorf("%w: %v", errInvalid, err)
	}
	word, err := wordOf(adminapi.VolumeWord(r.PathValue("word")), said)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", errInvalid, err)
	}
	v, err := a.ledger.SayOfVolume(r.Context(), by, disk, word)
	if err != nil {
		return nil, err
	}
	return a.viewVolume(r, v)
}

// wordOf checks an operator's word and its digest.
func wordOf(word adminapi.VolumeWord, said adminapi.SayVolume) (ledger.Word, error) {
	none := said.Digest == pins.Digest{}
	switch {
	case said.Version != adminapi.Version:
		return ledger.Word{}, fmt.Errorf("version is %d, want %d", said.Version, adminapi.Version)
	case none == (word == adminapi.VolumeRestore):
		return ledger.Word{}, errors.New("digest is set, want one only with restore")
	}
	switch word {
	case adminapi.VolumeFree:
		return ledger.Word{Event: audit.VolumeFree, Say: store.Volume.Free}, nil
	case adminapi.VolumeAccept:
		return ledger.Word{Event: audit.VolumeAccept, Say: store.Volume.Accept}, nil
	case adminapi.VolumeRestore:
		return ledger.Word{Event: audit.VolumeRestore, Say: func(v store.Volume, now time.Time) (store.Volume, error) {
			return v.Restore(said.Digest, now)
		}}, nil
	case adminapi.VolumeRetire:
		return ledger.Word{Event: audit.VolumeRetire, Say: store.Volume.Retire}, nil
	case adminapi.VolumeReset:
		return ledger.Word{Event: audit.VolumeReset, Say: store.Volume.Reset}, nil
	}
	return ledger.Word{}, fmt.Errorf("word is %.40q, want free, accept, restore, retire or reset", word)
}

func (a *Admin) viewVolume(r *http.Request, v store.Volume) (any, error) {
	reply := adminapi.Volume{
		Version: adminapi.Version, DiskUUID: v.DiskUUID, State: string(v.State), Generation: v.Generation, Digest: v.Digest,
		Launch: v.Launch, Found: v.Found, Accepted: v.Accepted, Changed: v.Changed,
	}
	// The state outlives the record, but only the record has the policy.
	switch record, err := a.ledger.Records.Get(r.Context(), v.DiskUUID); {
	case errors.Is(err, store.ErrNotFound):
	case err != nil:
		return nil, err
	case record.Volume != nil:
		reply.VolumePolicy = adminapi.VolumePolicy{Writers: string(record.Volume.Writers), Unclean: string(record.Volume.Unclean)}
	}
	return reply, nil
}

// policyOf checks the volume policy of a put.
func policyOf(p adminapi.Put) (*store.VolumePolicy, error) {
	if p.Volume == nil {
		return nil, nil
	}
	policy := &store.VolumePolicy{Writers: store.Writers(p.Volume.Writers), Unclean: store.Unclean(p.Volume.Unclean)}
	if err := policy.Check(); err != nil {
		return nil, fmt.Errorf("volume: %v", err)
	}
	return policy, nil
}
