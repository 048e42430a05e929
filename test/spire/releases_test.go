package spire

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"sync"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/rootvouch/rootvouch/evidence"
	"github.com/rootvouch/rootvouch/internal/needs"
	"github.com/rootvouch/rootvouch/kms/adminapi"
	"github.com/rootvouch/rootvouch/kms/fetchkey"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/spire/admin"
)

var (
	kmsID   = spiffeid.RequireFromPath(domain, admin.KMSPath)
	disk    = pins.UUID{0xd1, 6: 0x40, 8: 0x80}
	diskKey = bytes.Repeat([]byte{7}, 32)
)

const (
	patience = time.Minute      // of a guest: nothing may take as long
	rotation = 30 * time.Second // until everybody has an SVID of a new CA
)

// ownRoots takes the UpstreamAuthority out of a server.conf: the CA is its own root then, as
// stock SPIRE has it.
func ownRoots(conf string) string {
	return regexp.MustCompile(`(?s)\n  UpstreamAuthority "disk" \{.*?\n  \}\n`).ReplaceAllString(conf, "\n")
}

// TestReleasesWhileCARotates changes the CA of a stock SPIRE server again and again while a
// real key server releases keys to guests. Nobody is refused, and nobody gives up, because of it.
func TestReleasesWhileCARotates(t *testing.T) {
	// The server's CA is below the long-lived root. An SVID of a CA that no longer signs
	// is valid until it expires.
	t.Run("below the long-lived root", func(t *testing.T) {
		t.Parallel()
		const ttl = 16 * time.Second // each workload gets a new SVID after half of it
		w := build(t)
		w.start(nil)
		r := w.releases(ttl)
		for range 2 {
			stale := r.identity()
			before := r.authorities()
			w.rotate()
			r.more()
			if err := r.release(stale); err != nil {
				t.Errorf("an SVID of the CA before: %v", err)
			}
			r.renewed(before)
			r.more()
		}
		r.end()
	})

	// Each CA is a root of its own. It leaves the bundle, and with it all SVIDs that it signed.
	t.Run("roots of its own", func(t *testing.T) {
		t.Parallel()
		w := build(t)
		w.start(ownRoots)
		out, err := exec.Command(stock(t, "spire-server"), "bundle", "show", "-socketPath", w.config.Socket).Output()
		if err != nil {
			t.Fatal(err)
		}
		w.bundle = w.write("bundle.pem", out)
		r := w.releases(0)
		for range 2 {
			stale := r.identity()
			before := r.authorities()
			old := w.rotate()
			r.more()
			w.authority("taint", "-authorityID", old) // SPIRE then renews every SVID of it
			r.renewed(before)
			stale.Bundles = r.identity().Bundles // so that it is the key server that judges
			if err := r.release(stale); err != nil {
				t.Errorf("an SVID of a CA that is still in the bundle: %v", err)
			}
			w.authority("revoke", "-authorityID", old)
			within(t, rotation, "the key server forgets a CA", func() error {
				if r.release(stale) == nil {
					return errors.New("an SVID of a CA that is gone gets the key")
				}
				return nil
			})
			if end := stale.SVID.Certificates[0].NotAfter; time.Now().After(end) {
				t.Errorf("the SVID ended at %s: this is not why it is to be refused", end)
			}
			r.more()
		}
		r.end()
	})
}

// releases are guests that get their key from a key server, again and again. Each is a launch
// of its own; their SVID is one agent's.
type releases struct {
	*rig
	address string // of the key server
	agent   *agent
	stop    func()

	mu     sync.Mutex
	done   int
	signer string        // who signed the SVID of the newest release
	moved  chan struct{} // of size 1
}

// releases starts a key server with an SVID from an agent on the owner's side, and guests.
func (w *rig) releases(ttl time.Duration) *releases {
	w.Helper()
	r := &releases{rig: w, address: freeAddress(w), moved: make(chan struct{}, 1)}
	program := needs.Binary(w, "rootvouch-kms")
	owner := w.ownersAgent(kmsID, admin.Executable{Path: program, SHA256: fileDigest(w, program)}, ttl)
	config, err := json.Marshal(map[string]any{
		"version": 1, "listen": r.address, "spiffe_id": kmsID.String(), "workload_api": "unix://" + owner.socket,
		"admin_socket": w.path("kms.sock"), "store": w.path("kms.db"), "log_dir": w.path("kms.log"),
		"collateral_dir": w.sp.Collateral, "kek": map[string]string{"file": w.path("kek")},
	})
	if err != nil {
		w.Fatal(err)
	}
	path := w.write("kms.json", config)
	if out, err := exec.Command(program, "init", "--config", path).CombinedOutput(); err != nil {
		w.Fatalf("rootvouch-kms init: %v: %s", err, out)
	}
	server := run(w, program, "serve", "--config", path)
	within(w, patience, "key server serves", func() error {
		if _, ok := server.said("serving on"); !ok {
			return fmt.Errorf("it says: %s", server.output())
		}
		return nil
	})
	w.put()
	group, err := admin.VM{Name: "one", Values: w.values(wanted), Workload: workload, Fetchkey: w.program, TTL: ttl}.Entries(domain)
	if err != nil {
		w.Fatal(err)
	}
	if _, err := w.admin.Apply(w.Context(), group); err != nil {
		w.Fatal(err)
	}
	r.agent = w.agent(w.newLaunch(wanted), soon)
	r.begin(2)
	r.more()
	return r
}

// put registers the disk.
func (w *rig) put() {
	w.Helper()
	values, err := w.sp.Values(wanted).Encode()
	if err != nil {
		w.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(w.Context(), patience)
	defer cancel()
	if _, err := adminapi.NewClient(w.path("kms.sock")).Put(ctx, adminapi.Put{
		Header: pins.Header{DiskUUID: disk, HeaderSHA256: pins.Digest{2}}, SPIFFEID: workload.String(), Evidence: adminapi.EvidenceRequired, ReferenceValues: values,
	}, bytes.Clone(diskKey)); err != nil {
		w.Fatal(err)
	}
}

// begin starts guests, which run until the test, or end, ends them.
func (r *releases) begin(guests int) {
	stopped := make(chan struct{})
	var all sync.WaitGroup
	r.stop = sync.OnceFunc(func() { close(stopped); all.Wait() })
	r.Cleanup(r.stop)
	for range guests {
		all.Go(func() {
			for {
				select {
				case <-stopped:
					return
				default:
				}
				if !r.one() {
					return
				}
			}
		})
	}
}

// one is one guest's release.
func (r *releases) one() bool {
	id, err := fetchkey.WorkloadAPI("unix://"+r.agent.socket, patience)(r.Context())
	if err == nil {
		err = r.fetch(id, patience)
	}
	if err != nil {
		if r.Context().Err() == nil {
			r.Errorf("a guest got no key while the CA changed: %v", err)
		}
		return false
	}
	r.mu.Lock()
	r.done, r.signer = r.done+1, string(id.SVID.Certificates[0].AuthorityKeyId)
	r.mu.Unlock()
	select {
	case r.moved <- struct{}{}:
	default:
	}
	return true
}

// fetch gets the key with an identity, as a launch that nobody has seen.
func (r *releases) fetch(id fetchkey.Identity, patience time.Duration) error {
	released, err := fetchkey.Fetch(r.Context(), fetchkey.Config{
		Disk: disk, Addresses: []string{r.address}, ServerID: kmsID, Patience: patience,
		Identity: func(context.Context) (fetchkey.Identity, error) { return id, nil },
		Evidence: func(data [64]byte) (evidence.Evidence, error) {
			report := r.sp.Unsigned(r, data)
			report.Measurement = wanted
			if _, err := rand.Read(report.ReportID[:]); err != nil {
				return evidence.Evidence{}, err
			}
			return r.sp.Sign(r, report), nil
		},
	})
	if err == nil && !bytes.Equal(released.Key[:], diskKey) {
		return errors.New("it is another key")
	}
	return err
}

// release is fetch by a guest that soon gives up.
func (r *releases) release(id fetchkey.Identity) error { return r.fetch(id, 2*time.Second) }

// identity is the guests' SVID, and whom they believe, as it is now.
func (r *releases) identity() fetchkey.Identity {
	r.Helper()
	id, err := fetchkey.WorkloadAPI("unix://"+r.agent.socket, patience)(r.Context())
	if err != nil {
		r.Fatal(err)
	}
	return id
}

// more waits until three more guests have their key.
func (r *releases) more() {
	r.Helper()
	const n = 3
	r.mu.Lock()
	want := r.done + n
	r.mu.Unlock()
	limit := time.After(2 * patience)
	for {
		r.mu.Lock()
		done := r.done
		r.mu.Unlock()
		if done >= want {
			return
		}
		select {
		case <-r.moved:
		case <-limit:
			r.Fatalf("%d guests have their key, want %d", done, want)
		}
	}
}

// authorities are who signed the SVID of the newest release, and the key server's.
func (r *releases) authorities() [2]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	conn, err := tls.Dial("tcp", r.address, &tls.Config{InsecureSkipVerify: true}) // only to look at it
	if err != nil {
		return [2]string{r.signer}
	}
	defer conn.Close()
	return [2]string{r.signer, string(conn.ConnectionState().PeerCertificates[0].AuthorityKeyId)}
}

// renewed waits until both sides have an SVID of another CA.
func (r *releases) renewed(before [2]string) {
	r.Helper()
	within(r, rotation, "everybody has an SVID of the new CA", func() error {
		now := r.authorities()
		if now[1] == "" || now[0] == before[0] || now[1] == before[1] {
			return os.ErrExist
		}
		return nil
	})
}

func (r *releases) end() {
	r.stop()
	r.Logf("%d guests have their key, each once", r.done)
}
