package boot_test

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/rootvouch/rootvouch/evidence"
	"github.com/rootvouch/rootvouch/kms/audit"
	"github.com/rootvouch/rootvouch/kms/keyapi"
	"github.com/rootvouch/rootvouch/kms/ledger"
	"github.com/rootvouch/rootvouch/kms/store"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/test/kmstest"
)

// keyServer is the real store, ledger and log of a key server, behind a socket for
// the stand-ins of fetchkey. It leaves out the two locks on a key: TLS and evidence
// have their own tests.
type keyServer struct {
	*kmstest.Book
	t        *testing.T
	listener net.Listener
	done     sync.WaitGroup

	mu      sync.Mutex
	volumes map[pins.UUID]*testVolume
	closed  map[pins.Digest][sha256.Size]byte // :: digest of a commit -> SHA-256 of the whole volume then
	at      func(message) bool                // sees each message, and reports whether it passes
}

// message is a message between a launch and the key server.
type message struct {
	launch string
	what   string // "release", "commit" or "hold"
	reply  bool
}

func (m message) String() string {
	if m.reply {
		return "reply to the " + m.what
	}
	return "request of the " + m.what
}

func newKeyServer(t *testing.T) *keyServer {
	t.Helper()
	s := &keyServer{Book: kmstest.New(t, t.TempDir(), time.Now), t: t, volumes: map[pins.UUID]*testVolume{}, closed: map[pins.Digest][sha256.Size]byte{}}
	var err error
	if s.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	s.done.Go(func() {
		for {
			conn, err := s.listener.Accept()
			if err != nil {
				return
			}
			s.done.Go(func() { s.serve(conn) })
		}
	})
	t.Cleanup(s.stop)
	return s
}

// stop ends the server, after its pending requests.
func (s *keyServer) stop() {
	s.listener.Close()
	s.done.Wait()
}

var volumeVM = spiffeid.RequireFromString("spiffe://example.org/vm/volume")

// register puts the record of a volume.
func (s *keyServer) register(w *testVolume, policy store.VolumePolicy) {
	s.t.Helper()
	s.volumes[w.header.DiskUUID] = w
	_, err := s.Ledger.Put(s.t.Context(), audit.Actor{Name: "owner"}, store.Record{
		Header: w.header, SPIFFEID: volumeVM, Evidence: store.EvidenceNotRequired, SameVM: true, Volume: &policy,
	}, nil, w.key[:], ledger.Replace{Record: true})
	if err != nil {
		s.t.Fatal(err)
	}
}

// volume returns the server's state of a volume.
func (s *keyServer) volume(w *testVolume) store.Volume {
	s.t.Helper()
	v, err := s.Store.Volume(s.t.Context(), w.header.DiskUUID)
	if err != nil {
		s.t.Fatal(err)
	}
	return v
}

// say gives an operator's command about a volume.
func (s *keyServer) say(w *testVolume, event audit.Event, say func(store.Volume, time.Time) (store.Volume, error)) {
	s.t.Helper()
	if _, err := s.Ledger.SayOfVolume(s.t.Context(), audit.Actor{Name: "operator"}, w.header.DiskUUID, ledger.Word{Event: event, Say: say}); err != nil {
		s.t.Fatal(err)
	}
}

func (s *keyServer) free(w *testVolume) { s.t.Helper(); s.say(w, audit.VolumeFree, store.Volume.Free) }
func (s *keyServer) accept(w *testVolume) {
	s.t.Helper()
	s.say(w, audit.VolumeAccept, store.Volume.Accept)
}
func (s *keyServer) reset(w *testVolume) {
	s.t.Helper()
	s.say(w, audit.VolumeReset, store.Volume.Reset)
}

// judge checks the log for consistency, as an auditor does.
func (s *keyServer) judge() {
	s.t.Helper()
	s.Judge(s.t)
}

// watch makes the server call at for each message from now on.
func (s *keyServer) watch(at func(message) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at = at
}

func (s *keyServer) passes(m message) bool {
	s.mu.Lock()
	at := s.at
	s.mu.Unlock()
	return at == nil || at(m)
}

// serve answers one request: "release UUID LAUNCH REQUEST", "commit UUID LAUNCH JSON", or
// "hold - LAUNCH -" of a launch that waits for the test.
func (s *keyServer) serve(conn net.Conn) {
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Minute))
	line, err := bufio.NewReader(conn).ReadString('\n')
	words := strings.SplitN(strings.TrimSpace(line), " ", 4)
	if err != nil || len(words) != 4 {
		return // it was cut off
	}
	m := message{launch: words[2], what: words[0]}
	if !s.passes(m) {
		return
	}
	var answer string
	switch m.what {
	case "release":
		answer, err = s.release(words[1], m.launch, words[3])
	case "commit":
		err = s.commit(words[1], words[3])
	}
	switch {
	case errors.Is(err, store.ErrHeld):
		answer = "busy " + store.ErrHeld.Error()
	case err != nil:
		answer = "refused " + err.Error()
	default:
		answer = "ok " + answer
	}
	m.reply = true
	if s.passes(m) {
		conn.Write([]byte(answer + "\n"))
	}
}

func (s *keyServer) release(disk, launch, request string) (string, error) {
	uuid, err := pins.ParseUUID(disk)
	if err != nil {
		return "", err
	}
	record, err := s.Store.Get(s.t.Context(), uuid)
	if err != nil {
		return "", err
	}
	opened := new(store.Volume)
	err = s.Ledger.Release(s.t.Context(), ledger.Claim{
		Record: record, Launch: store.Launch{Nonce: evidence.Nonce(sha256.Sum256([]byte(launch)))}, Fresh: true, Volume: opened,
		About: audit.AboutRelease{Generation: record.Generation, Request: audit.Request{
			SPIFFEID: record.SPIFFEID.String(), Disk: uuid, SHA256: sha256.Sum256([]byte(request)), Remote: "127.0.0.1:1"}},
	})
	if err != nil {
		return "", err
	}
	key, err := s.Ledger.Records.Key(record)
	if err != nil {
		return "", err
	}
	released := keyapi.Released{Key: [32]byte(key), Header: record.Header, Generation: record.Generation, KMSID: "spiffe://example.org/kms",
		Volume: &keyapi.Volume{Found: opened.Found, AcceptUnclean: record.Volume.Unclean == store.UncleanAccept, Generation: opened.Generation,
			Digest: opened.Digest, Holder: opened.Holder, CommitKey: s.Store.CommitKey(uuid, opened.Holder)}}
	data, err := released.Marshal()
	return hex.EncodeToString(data), err
}

// commit closes a volume, and keeps a digest of the whole volume at this moment.
func (s *keyServer) commit(disk, text string) error {
	uuid, err := pins.ParseUUID(disk)
	if err != nil {
		return err
	}
	var request keyapi.CommitRequest
	if err := json.Unmarshal([]byte(text), &request); err != nil {
		return err
	}
	if !request.Verify(s.Store.CommitKey(uuid, request.Holder), uuid) {
		return errors.New("the MAC is not that of a launch that had the volume")
	}
	// Both happen under one lock: if the VM is cut now, asClosed must know the
	// close.
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.Ledger.CloseVolume(s.t.Context(), "127.0.0.1:1", uuid, request); err != nil {
		return err
	}
	sum, err := sumOf(s.volumes[uuid].path)
	if err != nil {
		return err
	}
	s.closed[request.Digest] = sum
	return nil
}

func sumOf(path string) ([sha256.Size]byte, error) {
	data, err := os.ReadFile(path)
	return sha256.Sum256(data), err
}

// asClosed reports whether a file equals, byte for byte, a volume at its close with
// this digest.
func (s *keyServer) asClosed(path string, digest pins.Digest) bool {
	s.t.Helper()
	sum, err := sumOf(path)
	if err != nil {
		s.t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	then, ok := s.closed[digest]
	return ok && sum == then
}

// with attaches a volume to a VM, whose launch asks this server for its key.
func (v *vm) with(s *keyServer, launch string, path string, w *testVolume) {
	v.t.Helper()
	v.measure(w)
	v.volumes = append(v.volumes, path)
	_, port, err := net.SplitHostPort(s.listener.Addr().String())
	if err != nil {
		v.t.Fatal(err)
	}
	v.config.CommandLine += fmt.Sprintf(" guest.kms:10.0.2.2:%s:%s", port, launch)
}
