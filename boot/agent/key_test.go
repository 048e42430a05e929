package agent

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/rootvouch/rootvouch/boot/bootconfig"
	"github.com/rootvouch/rootvouch/kms/keyapi"
	"github.com/rootvouch/rootvouch/pins"
)

func sampleRelease() *keyapi.Released {
	return &keyapi.Released{
		Key:        [keyapi.KeySize]byte(bytes.Repeat([]byte{0xa5}, keyapi.KeySize)),
		Header:     pins.Header{DiskUUID: pins.UUID{1}, HeaderSHA256: pins.Digest{2}},
		Generation: 1,
		KMSID:      "spiffe://example.org/kms",
	}
}

func marshal(t *testing.T, r *keyapi.Released) []byte {
	t.Helper()
	b, err := r.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestReadReleaseWipes checks the array that held the reply.
func TestReadReleaseWipes(t *testing.T) {
	good := marshal(t, sampleRelease())
	for _, c := range []struct {
		name  string
		reply []byte
		ended error
		want  string
	}{
		{"good", good, nil, ""},
		{"writer failed", good, errors.New("exit status 1"), "exit status 1"},
		{"half", good[:len(good)/2], nil, "parsing a release"},
		{"trailing byte", append(bytes.Clone(good), 0), nil, "parsing a release"},
		{"empty", nil, nil, "got 0 bytes"},
		{"endless", bytes.Repeat(good, 100), nil, "got more than"},
	} {
		t.Run(c.name, func(t *testing.T) {
			buf := make([]byte, keyapi.MaxReleasedSize+1)
			release, err := readRelease(bytes.NewReader(c.reply), buf, func() error {
				if bytes.Count(buf, []byte{0xa5}) == 0 && len(c.reply) > 0 {
					t.Error("the reply is not in the buffer, so the test sees nothing")
				}
				return c.ended
			})
			if c.want == "" {
				if err != nil || *release != *sampleRelease() {
					t.Errorf("got %+v, %v", release, err)
				}
			} else if release != nil || err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, error %v, want one with %q", release, err, c.want)
			}
			if !bytes.Equal(buf, make([]byte, len(buf))) {
				t.Error("the buffer still has a part of the reply")
			}
		})
	}
}

func TestReadReleaseDeadline(t *testing.T) {
	r := readerFunc(func([]byte) (int, error) { return 0, os.ErrDeadlineExceeded })
	_, err := readRelease(r, make([]byte, 10), func() error { return nil })
	if err == nil || !strings.Contains(err.Error(), "got no reply in time") {
		t.Errorf("got error %v", err)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

func TestCheckRelease(t *testing.T) {
	r := sampleRelease()
	header := r.Header
	c := bootconfig.Config{KMS: bootconfig.KMS{SPIFFEID: r.KMSID}}
	if err := checkRoot(r, header.DiskUUID, c); err != nil {
		t.Errorf("without a measured header pin: %v", err)
	}
	c.Disk.Header = &header
	if err := checkRoot(r, header.DiskUUID, c); err != nil {
		t.Errorf("with the same header pin: %v", err)
	}
	other := header
	other.HeaderSHA256[0]++
	for _, bad := range []struct {
		want  string
		asked pins.UUID
		c     bootconfig.Config
	}{
		{"which was asked for", pins.UUID{9}, c},
		{"of the boot configuration", header.DiskUUID, bootconfig.Config{KMS: c.KMS, Disk: bootconfig.Disk{Header: &other}}},
		{"KMS is", header.DiskUUID, bootconfig.Config{KMS: bootconfig.KMS{SPIFFEID: "spiffe://example.org/x"}}},
	} {
		if err := checkRoot(r, bad.asked, bad.c); err == nil || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("got error %v, want one with %q", err, bad.want)
		}
	}
	if err := checkVolume(r, header.DiskUUID, c); err == nil || !strings.Contains(err.Error(), "it is of a disk") {
		t.Errorf("a disk's for a volume: got error %v", err)
	}
	r.Volume = &keyapi.Volume{Found: keyapi.FoundNew}
	if err := checkRoot(r, header.DiskUUID, c); err == nil || !strings.Contains(err.Error(), "it is of a volume") {
		t.Errorf("a volume's for the root: got error %v", err)
	}
	if err := checkVolume(r, header.DiskUUID, c); err != nil {
		t.Errorf("a volume's: %v", err)
	}
	if err := checkVolume(r, pins.UUID{9}, c); err == nil || !strings.Contains(err.Error(), "which was asked for") {
		t.Errorf("another volume's: got error %v", err)
	}
}
