package e2e

import (
	"context"
	"crypto/rand"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"

	"github.com/rootvouch/rootvouch/demo"
	"github.com/rootvouch/rootvouch/evidence"
	"github.com/rootvouch/rootvouch/internal/needs"
	"github.com/rootvouch/rootvouch/kms/keyapi"
	"github.com/rootvouch/rootvouch/pins"
)

// A key server of an attacker cannot make the VM boot another root than the
// measured one.
func TestImpostorKMS(t *testing.T) {
	c := setUp(t)
	p := c.pins(t, c.web)
	released := func() keyapi.Released {
		r := keyapi.Released{Header: p.Header, Generation: 1, KMSID: demo.KMSID}
		copy(r.Key[:], read(t, c.Key(c.web)))
		return r
	}
	otherKey := released()
	otherKey.Key[0] ^= 1
	otherPin := released()
	otherPin.Header.HeaderSHA256[0] ^= 1

	c.StopKMS()
	t.Cleanup(func() {
		if err := c.StartKMS(context.Background()); err != nil {
			t.Error(err)
		}
	})
	t.Run("with another SPIFFE ID", func(t *testing.T) {
		c.impostor(t, "spiffe://"+demo.TrustDomain+"/impostor", released())
		c.boot(t, c.web).Refused("key", "impostor")
	})
	t.Run("that sends another key", func(t *testing.T) {
		c.impostor(t, demo.KMSID, otherKey)
		c.boot(t, c.web).Refused("dm-crypt", "key")
	})
	t.Run("that sends another header pin", func(t *testing.T) {
		c.impostor(t, demo.KMSID, otherPin)
		c.boot(t, c.web).Refused("key", "luks2_header_sha256")
	})
	// If the header pin comes from the KMS, an impostor can name another disk.
	t.Run("that sends another header pin to a guest that has none", func(t *testing.T) {
		g := c.guest(t, "unpinned")
		c.sameDisk(t, g)
		before := c.values
		if err := c.buildInitramfs(t.Context(), t, g, "--no-header-pin"); err != nil {
			t.Fatal(err)
		}
		defer func() { c.values = before }()
		if err := c.Register(t.Context(), g); err != nil {
			t.Fatal(err)
		}
		c.impostor(t, demo.KMSID, otherPin)
		c.boot(t, g).Refused("header", otherPin.Header.HeaderSHA256.String())
	})
}

// impostor serves the key server's protocol at the key server's address. It is a
// workload of the owner's agent with this SPIFFE ID, and releases the key to every
// caller.
func (c *chain) impostor(t *testing.T, id string, release keyapi.Released) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	entry := "impostor" + strings.ReplaceAll(strings.TrimPrefix(id, "spiffe://"), "/", ".") + "." + strings.ReplaceAll(t.Name(), "/", ".")
	must(t)(c.SPIREServer(t.Context(), "entry", "create", "-entryID", entry, "-parentID", demo.OwnerAgent,
		"-spiffeID", id, "-selector", "unix:path:"+self))
	t.Cleanup(func() {
		if _, err := c.SPIREServer(context.Background(), "entry", "delete", "-entryID", entry); err != nil {
			t.Error(err)
		}
	})
	source := c.source(t, spiffeid.RequireFromString(id))
	listener, err := net.Listen("tcp", c.KMSListen())
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{
		Handler:           impostorHandler(t, release),
		TLSConfig:         tlsconfig.MTLSServerConfig(source, source, tlsconfig.AuthorizeAny()),
		ReadHeaderTimeout: 10 * time.Second,
	}
	go server.ServeTLS(listener, "", "")
	t.Cleanup(func() { server.Close() })
}

// source waits until the owner's agent gives this process the SVID.
func (c *chain) source(t *testing.T, id spiffeid.ID) *workloadapi.X509Source {
	t.Helper()
	pick := func(all []*x509svid.SVID) *x509svid.SVID {
		for _, svid := range all {
			if svid.ID == id {
				return svid
			}
		}
		return all[0]
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		source, err := workloadapi.NewX509Source(t.Context(), workloadapi.WithDefaultX509SVIDPicker(pick),
			workloadapi.WithClientOptions(workloadapi.WithAddr("unix://"+c.WorkloadAPI())))
		if err != nil {
			t.Fatal(err)
		}
		svid, err := source.GetX509SVID()
		if err == nil && svid.ID == id {
			t.Cleanup(func() { source.Close() })
			return source
		}
		source.Close()
		if time.Now().After(deadline) {
			t.Fatalf("the owner's agent gives no SVID for %s: %v", id, err)
		}
	}
}

func impostorHandler(t *testing.T, release keyapi.Released) http.Handler {
	mux := http.NewServeMux()
	var nonce evidence.Nonce
	if _, err := rand.Read(nonce[:]); err != nil {
		t.Fatal(err)
	}
	mux.HandleFunc("POST "+keyapi.PathNonce, func(w http.ResponseWriter, _ *http.Request) {
		w.Write(keyapi.Encode(keyapi.NonceReply{Version: keyapi.Version, Nonce: nonce}))
	})
	mux.HandleFunc("POST /v1/disks/{uuid}/release", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		request, err := keyapi.Decode[keyapi.ReleaseRequest](body)
		if err != nil {
			t.Errorf("the guest's request: %v", err)
			return
		}
		disk, err := pins.ParseUUID(r.PathValue("uuid"))
		if err != nil {
			t.Errorf("the guest's request: %v", err)
			return
		}
		sealed, err := keyapi.Seal(request.HPKEPublicKey, nonce, disk, &release)
		if err != nil {
			t.Errorf("sealing: %v", err)
			return
		}
		w.Write(keyapi.Encode(keyapi.ReleaseReply{Version: keyapi.Version, Sealed: sealed}))
	})
	return mux
}

// A server at the SPIRE server's address without that server's certificate gets no
// evidence, whether it lies or stays silent.
func TestImpostorSPIRE(t *testing.T) {
	needs.Matrix(t)
	c := setUp(t)
	_, port, err := net.SplitHostPort(c.SPIREAddress())
	if err != nil {
		t.Fatal(err)
	}
	c.StopSPIREServer()
	t.Cleanup(func() {
		if err := c.StartSPIREServer(context.Background(), nil); err != nil {
			t.Error(err)
		}
	})
	other := httptest.NewUnstartedServer(http.NotFoundHandler()) // with a certificate of a foreign CA
	other.EnableHTTP2 = true
	other.Config.ErrorLog = log.New(io.Discard, "", 0)
	other.Listener.Close()
	if other.Listener, err = net.Listen("tcp", "127.0.0.1:"+port); err != nil {
		t.Fatal(err)
	}
	other.StartTLS()
	t.Run("with another certificate", func(t *testing.T) {
		c.boot(t, c.web).Refused("agent", "x509")
	})
	other.Close()

	t.Run("silent", func(t *testing.T) {
		silent, err := net.Listen("tcp", "127.0.0.1:"+port)
		if err != nil {
			t.Fatal(err)
		}
		defer silent.Close()
		go func() {
			for {
				conn, err := silent.Accept()
				if err != nil {
					return
				}
				defer conn.Close() // it stays open for as long as the VM runs
			}
		}()
		c.boot(t, c.web).Refused("agent", "")
	})
}
