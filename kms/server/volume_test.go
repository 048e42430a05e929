package server

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/rootvouch/rootvouch/kms/audit"
	"github.com/rootvouch/rootvouch/kms/fetchkey"
	"github.com/rootvouch/rootvouch/kms/keyapi"
	"github.com/rootvouch/rootvouch/kms/store"
	"github.com/rootvouch/rootvouch/pins"
)

// volumeRig is a server with a volume beside the disk.
func volumeRig(t *testing.T, writers store.Writers) *rig {
	r := newRig(t)
	record := r.record(diskTwo)
	record.SameVM, record.Volume = true, &store.VolumePolicy{Writers: writers, Unclean: store.UncleanAccept}
	r.mustPut(record, r.values(measured))
	return r
}

// fetchVolume asks for the volume in the name of a launch.
func (r *rig) fetchVolume(launch byte) (*keyapi.Released, error) {
	c := r.guest(r.vm(), r.launch(launch))
	c.Disk, c.Patience = diskTwo.DiskUUID, time.Second
	return fetchkey.Fetch(context.Background(), c)
}

// commit closes it.
func (r *rig) commit(request keyapi.CommitRequest) error {
	return fetchkey.Commit{Disk: diskTwo.DiskUUID, Request: request, Addresses: []string{r.address}, ServerID: kmsID,
		Bundles: r.ca.Bundle(), Patience: time.Second}.Send(context.Background())
}

// TestVolume is the whole way of a volume: its key, what is known of it, and its close, which
// needs no SVID.
func TestVolume(t *testing.T) {
	r := volumeRig(t, store.Exclusive)
	first, err := r.fetchVolume(1)
	if err != nil {
		t.Fatal(err)
	}
	if v := first.Volume; v == nil || v.Found != keyapi.FoundNew || !v.AcceptUnclean || v.Generation != 0 {
		t.Fatalf("got %+v", first.Volume)
	}
	if _, err := r.fetchVolume(2); err == nil || !strings.Contains(err.Error(), "another launch has the volume open") {
		t.Errorf("second launch: got %v, want that another has it", err)
	}
	closed := keyapi.NewCommit(first.Volume.CommitKey, diskTwo.DiskUUID, first.Volume.Holder, 1, pins.Digest{0xd1})
	r.restart()
	if err := r.commit(closed); err != nil {
		t.Fatal(err)
	}
	if err := r.commit(closed); err != nil {
		t.Errorf("the same close again: %v", err)
	}
	third, err := r.fetchVolume(3)
	if err != nil || third.Volume.Found != keyapi.FoundClosed || third.Volume.Generation != 1 || third.Volume.Digest != (pins.Digest{0xd1}) {
		t.Fatalf("got %+v, %v", third, err)
	}
	if said := newest[audit.AboutRelease](r); said.Volume == nil || said.Volume.Found != keyapi.FoundClosed {
		t.Errorf("log has %+v", said)
	}
	for name, request := range map[string]keyapi.CommitRequest{
		"close of who had it before": closed,
		"key of another launch":      keyapi.NewCommit(first.Volume.CommitKey, diskTwo.DiskUUID, third.Volume.Holder, 2, pins.Digest{2}),
		"no key":                     keyapi.NewCommit([32]byte{}, diskTwo.DiskUUID, third.Volume.Holder, 2, pins.Digest{2}),
	} {
		if err := r.commit(request); !errors.Is(err, fetchkey.ErrRefused) {
			t.Errorf("%s: got %v, want ErrRefused", name, err)
		}
	}
	r.noSecrets()
}

// A launch with the disk's identity but another measurement gets no volume, as it gets no
// disk; and the disk's own release says nothing of a volume.
func TestVolumeLocks(t *testing.T) {
	r := volumeRig(t, store.Exclusive)
	c := r.guest(r.ca.Issue(t, otherID), r.launch(1))
	c.Disk = diskTwo.DiskUUID
	if _, err := fetchkey.Fetch(context.Background(), c); !errors.Is(err, fetchkey.ErrRefused) {
		t.Errorf("another identity: got %v, want ErrRefused", err)
	}
	released, err := fetchkey.Fetch(context.Background(), r.guest(r.vm(), r.launch(1)))
	if err != nil || released.Volume != nil {
		t.Errorf("disk: got %+v, %v", released, err)
	}
	v, err := r.store.Volume(t.Context(), diskTwo.DiskUUID)
	if err != nil || v.State != store.VolumeNew {
		t.Errorf("volume is %+v, %v, want it new", v, err)
	}
}

// Who shows no SVID can commit, and nothing else.
func TestCommitNameAlone(t *testing.T) {
	r := volumeRig(t, store.Exclusive)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, ServerName: keyapi.CommitServerName}}}
	defer client.CloseIdleConnections()
	post := func(path, body string) int {
		response, err := client.Post("https://"+r.address+path, "application/json", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		io.Copy(io.Discard, response.Body)
		return response.StatusCode
	}
	for _, c := range []struct {
		path, body string
		want       int
	}{
		{keyapi.PathNonce, `{"version":1}`, 403},
		{keyapi.ReleasePath(diskTwo.DiskUUID), `{}`, 403},
		{keyapi.CommitPath(diskTwo.DiskUUID), `{}`, 400},
		{keyapi.CommitPath(diskTwo.DiskUUID), strings.Repeat("x", keyapi.MaxCommitSize+1), 400},
		{keyapi.CommitPath(pins.UUID{9}), string(keyapi.Encode(keyapi.NewCommit([32]byte{1}, pins.UUID{9}, keyapi.Holder{1}, 1, pins.Digest{1}))), 403},
	} {
		if got := post(c.path, c.body); got != c.want {
			t.Errorf("%s: status is %d, want %d", c.path, got, c.want)
		}
	}
}
