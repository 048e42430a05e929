package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rootvouch/rootvouch/evidence"
	"github.com/rootvouch/rootvouch/internal/needs"
	"github.com/rootvouch/rootvouch/kms/adminapi"
	"github.com/rootvouch/rootvouch/kms/fetchkey"
	"github.com/rootvouch/rootvouch/snp"
	"github.com/rootvouch/rootvouch/test/childtest"
)

// asServer has the test's own program be the key server.
const asServer = "ROOTVOUCH_KMS_TEST_SERVER"

func TestMain(m *testing.M) {
	if os.Getenv(asServer) != "" {
		os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
	}
	asCommand()
	os.Exit(m.Run())
}

// process is the key server as a process that is killed and started again.
type process struct {
	t      testing.TB
	config string

	mu      sync.Mutex // guards what follows
	cmd     *exec.Cmd
	address string // "" while there is none
	log     bytes.Buffer
}

// start returns when callers can reach the server.
func (p *process) start() {
	cmd := childtest.Tied(exec.Command(os.Args[0], "serve", "--config", p.config))
	cmd.Env = append(os.Environ(), asServer+"=1")
	cmd.Stderr = &p.log
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		p.t.Error(err)
		return
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	address, _, ok := strings.Cut(strings.TrimPrefix(line, "rootvouch-kms: serving on "), " as ")
	if err != nil || !ok {
		cmd.Process.Kill()
		cmd.Wait()
		p.t.Errorf("the server did not get ready: %v, %q, log:\n%s", err, line, p.log.String())
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cmd, p.address = cmd, address
}

// kill ends the server as kill -9 does, and returns when it is gone.
func (p *process) kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil {
		p.cmd.Process.Kill()
		p.cmd.Wait()
		p.cmd, p.address = nil, ""
	}
}

func (p *process) reach() (net.Conn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return net.Dial("tcp", p.address)
}

// killer stands between a guest and the server. When the TLS record of number at of
// an exchange passes, the server is killed, and started again: what the guest sent
// has reached the server by then, and what the server sent has not reached the guest.
type killer struct {
	*process
	listener net.Listener

	mu       sync.Mutex // guards what follows
	at       int        // -1: let everything pass
	seen     int
	restarts chan struct{} // closed when the server is there again; nil if it was not killed
}

func newKiller(t testing.TB, p *process) *killer {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { l.Close() })
	k := &killer{process: p, listener: l, at: -1}
	go func() {
		for {
			guest, err := l.Accept()
			if err != nil {
				return
			}
			go k.relay(guest)
		}
	}()
	return k
}

func (k *killer) relay(guest net.Conn) {
	defer guest.Close()
	server, err := k.reach()
	if err != nil {
		return
	}
	defer server.Close()
	ended := make(chan struct{}, 2)
	for _, way := range []struct {
		from, to  net.Conn
		fromGuest bool
	}{{guest, server, true}, {server, guest, false}} {
		go func() {
			k.pump(way.from, way.to, way.fromGuest)
			ended <- struct{}{}
		}()
	}
	<-ended
}

// pump passes TLS records on (RFC 8446, section 5.1).
func (k *killer) pump(from, to net.Conn, fromGuest bool) {
	for {
		record := make([]byte, 5)
		if _, err := io.ReadFull(from, record); err != nil {
			return
		}
		record = append(record, make([]byte, binary.BigEndian.Uint16(record[3:]))...)
		if _, err := io.ReadFull(from, record[5:]); err != nil {
			return
		}
		now := k.passes()
		if now && !fromGuest {
			k.strike()
			return
		}
		if _, err := to.Write(record); err != nil {
			return
		}
		if now {
			k.strike()
			return
		}
	}
}

// passes counts a record, and reports whether it is the one.
func (k *killer) passes() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.seen++
	if k.seen-1 != k.at {
		return false
	}
	k.restarts = make(chan struct{})
	return true
}

func (k *killer) strike() {
	k.kill()
	k.mu.Lock()
	restarts := k.restarts
	k.mu.Unlock()
	go func() {
		defer close(restarts)
		k.start()
	}()
}

// aim has the server killed at a record of the next exchange.
func (k *killer) aim(at int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.at, k.seen, k.restarts = at, 0, nil
}

// struck ends the aim, since an exchange is over before its connection closes, and
// reports whether the server was killed, once it is there again.
func (k *killer) struck() bool {
	k.mu.Lock()
	k.at = -1
	restarts := k.restarts
	k.mu.Unlock()
	if restarts == nil {
		return false
	}
	<-restarts
	return true
}

// TestKilled kills the server at every record of the exchange with a guest, from the
// first of the TLS handshake to the reply with the key. Each guest gets its key all
// the same, and the server has no release that no guest has.
func TestKilled(t *testing.T) {
	needs.Boot(t)
	r := newRig(t)
	_, err := do("init", "--config", r.config)
	must(t, err)
	p := &process{t: t, config: r.config}
	p.start()
	defer p.kill()
	r.put()
	k := newKiller(t, p)
	const most = 60 // records of an exchange; there are some 20
	launches := 0
	for at := range most {
		k.aim(at)
		launch := snp.ReportID{1, byte(at)}
		if err := r.fetchPatiently(k.listener.Addr().String(), launch); err != nil {
			t.Errorf("killed at record %d: %v", at, err)
		}
		launches++
		if !k.struck() {
			break
		}
	}
	if launches < 10 || launches == most {
		t.Fatalf("the exchange had %d records, want 10 to %d: the killing did not work", launches-1, most)
	}
	t.Logf("killed at %d points", launches-1)
	releases, err := adminapi.NewClient(r.path("admin.sock")).Releases(t.Context(), disk.DiskUUID)
	must(t, err)
	for at, release := range releases {
		if want := (snp.ReportID{1, byte(at)}); release.ReportID != want {
			t.Errorf("release %d is of launch %x, want %x", at, release.ReportID[:2], want[:2])
		}
	}
	if len(releases) != launches {
		t.Errorf("the server has %d releases, and %d guests have the key", len(releases), launches)
	}
}

// fetchPatiently gets the key as a launch, with the patience of a guest.
func (r *rig) fetchPatiently(address string, launch snp.ReportID) error {
	id := r.agent.identity(vmID)
	_, err := fetchkey.Fetch(r.t.Context(), fetchkey.Config{
		Disk: disk.DiskUUID, Addresses: []string{address}, ServerID: kmsID, Patience: time.Minute,
		Identity: func(context.Context) (fetchkey.Identity, error) { return id, nil },
		Evidence: func(data [64]byte) (evidence.Evidence, error) {
			report := r.chip.Unsigned(r.t, data)
			report.ReportID = launch
			return r.chip.Sign(r.t, report), nil
		},
	})
	return err
}
