package release

import (
	"bytes"
	"context"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/rootvouch/rootvouch/kms/admin"
	"github.com/rootvouch/rootvouch/kms/adminapi"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/refval"
	"github.com/rootvouch/rootvouch/release"
	"github.com/rootvouch/rootvouch/snp"
	"github.com/rootvouch/rootvouch/test/kmstest"
)

// TestServerMadeKey has a key server make a release's key, and give it the release's record
// without being sent the key.
func TestServerMadeKey(t *testing.T) {
	dir := t.TempDir()
	var vm release.VM
	vm.KMS.Socket = filepath.Join(dir, "kms.sock")
	book := kmstest.New(t, dir, time.Now)
	listener, err := admin.Listen(vm.KMS.Socket, admin.Roles{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	id := spiffeid.RequireFromString("spiffe://example.org/kms")
	go func() {
		done <- admin.New(id, book.Ledger, book.State, slog.New(slog.DiscardHandler)).Serve(ctx, listener)
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})

	cmd := &cobra.Command{}
	cmd.SetContext(t.Context())
	f := buildFlags{key: "key-server", keyFrom: "key-server"}
	var o release.Options
	made, err := f.maker(vm, &o)
	if err != nil {
		t.Fatal(err)
	}
	keep, err := f.keeper(cmd, vm, made)
	if err != nil {
		t.Fatal(err)
	}
	key, err := o.Key(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(key) != 32 || bytes.Equal(key, make([]byte, 32)) || *made == "" {
		t.Errorf("got a key of %d bytes with the name %q", len(key), *made)
	}
	values := refval.New(refval.EmulatedARK(pins.Digest{1}), []refval.Measurement{{
		Digest: snp.Measurement{1}, HostCode: refval.HostCodeNone, Kernel: refval.KernelMeasured,
		Provenance: refval.Provenance{KernelSHA256: [32]byte{1}}, Gate: "9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a", VCPUs: 1, CPUType: "EPYC-v4",
	}})
	header := pins.Header{DiskUUID: pins.UUID{1}, HeaderSHA256: pins.Digest{2}}
	verity := pins.Verity{RootHash: pins.Digest{3}, DataBlocks: 1, HashOffset: 4096, PayloadOffset: 1 << 20, PayloadSize: 12288}
	r := &release.Release{Pins: pins.New(verity, header, pins.EROFS, pins.InitOK)}
	if r.Refval, err = values.Encode(); err != nil {
		t.Fatal(err)
	}
	r.Manifest.SPIFFEID = "spiffe://example.org/vm/web"
	if err := keep(r, bytes.Repeat([]byte{7}, 32)); err != nil { // another key: the server must not take it
		t.Fatal(err)
	}
	client := adminapi.NewClient(vm.KMS.Socket)
	if record, err := client.Get(t.Context(), header.DiskUUID); err != nil || record.SPIFFEID != "spiffe://example.org/vm/web" {
		t.Errorf("record is %+v, error %v", record, err)
	}
	again := *r
	again.Pins.DiskUUID = pins.UUID{2}
	if err := keep(&again, key); err == nil {
		t.Error("a made key got a second record")
	}
}
