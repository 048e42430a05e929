package keys

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/rootvouch/rootvouch/internal/command"
	"github.com/rootvouch/rootvouch/kms/admin"
	"github.com/rootvouch/rootvouch/kms/adminapi"
	"github.com/rootvouch/rootvouch/kms/ledger"
	"github.com/rootvouch/rootvouch/kms/store"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/refval"
	"github.com/rootvouch/rootvouch/snp"
	"github.com/rootvouch/rootvouch/test/kmstest"
)

// startAdmin serves the admin socket of an empty key server in dir.
func startAdmin(t *testing.T, dir string) (socket string, book *ledger.Ledger) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	b := kmstest.New(t, dir, time.Now)
	book = b.Ledger
	socket = filepath.Join(dir, "kms.sock")
	listener, err := admin.Listen(socket, admin.Roles{})
	must(err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	id := spiffeid.RequireFromString("spiffe://example.org/kms")
	go func() { done <- admin.New(id, book, b.State, slog.New(slog.DiscardHandler)).Serve(ctx, listener) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return socket, book
}

func TestKeys(t *testing.T) {
	dir := t.TempDir()
	socket, book := startAdmin(t, dir)
	write := func(name string, data []byte) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	header := pins.Header{DiskUUID: pins.UUID{1}, HeaderSHA256: pins.Digest{2}}
	verity := pins.Verity{RootHash: pins.Digest{3}, DataBlocks: 1, HashOffset: 4096, PayloadOffset: 1 << 20, PayloadSize: 12288}
	pinsFile := write("pins.json", pins.New(verity, header, pins.EROFS, pins.InitOK).Encode())
	values, err := refval.New(refval.EmulatedARK(pins.Digest{1}), []refval.Measurement{{Digest: snp.Measurement{1}, HostCode: refval.HostCodeNone, Kernel: refval.KernelMeasured, Provenance: refval.Provenance{KernelSHA256: [32]byte{1}}, Gate: "9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a", VCPUs: 1, CPUType: "EPYC-v4"}}).Encode()
	if err != nil {
		t.Fatal(err)
	}
	refvalFile := write("refval.json", values)
	keyFile := write("key", bytes.Repeat([]byte{7}, 32))
	disk := header.DiskUUID.String()

	keys := func(wantCode int, wantOut, wantErr string, args ...string) string {
		t.Helper()
		var stdout, stderr bytes.Buffer
		code := command.Main(New(), append([]string{args[0], "--kms-socket", socket}, args[1:]...), &stdout, &stderr)
		if code != wantCode || !strings.Contains(stdout.String(), wantOut) || !strings.Contains(stderr.String(), wantErr) {
			t.Errorf("keys %s: exit status %d\n%s%s, want %d with %q and %q", strings.Join(args, " "), code, &stdout, &stderr, wantCode, wantOut, wantErr)
		}
		return stdout.String()
	}
	put := func(more ...string) []string {
		return append([]string{"put", "--spiffe-id", "spiffe://example.org/vm", "--pins", pinsFile, "--key", keyFile}, more...)
	}
	keys(command.ExitUsage, "", `required flag(s) "refval" not set`, put()...)
	keys(command.ExitUsage, "", "has no use", put("--refval", refvalFile, "--evidence", "not-required")...)
	keys(command.ExitUsage, "", `--evidence is "no"`, put("--refval", refvalFile, "--evidence", "no")...)
	keys(command.ExitError, "", "decoding reference values", put("--refval", keyFile)...)
	keys(command.ExitError, "", "exactly 32 bytes", put("--refval", refvalFile, "--key", write("short", make([]byte, 31)))...)
	keys(command.ExitError, "", "exactly 32 bytes", put("--refval", refvalFile, "--key", write("long", make([]byte, 33)))...)
	// The key is read first: pins may come with it.
	keys(command.ExitError, "", "exactly 32 bytes", put("--refval", refvalFile, "--pins", "none", "--key", write("none", nil))...)
	keys(command.ExitError, "", "decoding pins", put("--refval", refvalFile, "--pins", refvalFile)...)
	var noKernel refval.Values
	if noKernel, err = refval.Decode(values); err != nil {
		t.Fatal(err)
	}
	m := &noKernel.Measurements[0]
	m.Kernel, m.Gate, m.Provenance = refval.KernelUnmeasured, refval.GateNone, refval.Provenance{}
	unmeasured, err := noKernel.Encode()
	if err != nil {
		t.Fatal(err)
	}
	silent := bytes.Replace(unmeasured, []byte(`"unmeasured"`), []byte(`"measured"`), 1)
	keys(command.ExitError, "", "the digest covers no kernel", put("--refval", write("silent.json", silent))...)
	noKernelFile := write("no-kernel.json", unmeasured)
	keys(command.ExitError, "", "--unmeasured-kernel accepts any kernel", put("--refval", noKernelFile)...)
	keys(0, "registered disk", "", put("--refval", noKernelFile, "--unmeasured-kernel")...)
	keys(0, "deleted disk", "", "delete", disk)
	keys(0, "registered disk "+disk+", generation 2, for spiffe://example.org/vm, evidence required", "emulated: NOT CONFIDENTIAL", put("--refval", refvalFile)...)
	keys(command.ExitError, "", "hint: --replace", put("--refval", refvalFile)...)
	keys(0, "generation 3", "", put("--refval", refvalFile, "--replace")...)
	keys(command.ExitUsage, "", "goes with --replace", put("--refval", refvalFile, "--change-root-of-trust")...)
	keys(command.ExitError, "", "--change-root-of-trust allows another", put("--evidence", "not-required", "--replace")...)
	keys(0, "emulated ARK 0100", "", "list")
	keys(0, "disk "+disk+" is disabled", "", "disable", disk)
	keys(0, "disabled  3", "", "list")
	keys(0, "disk "+disk+" is enabled", "", "enable", disk)
	keys(command.ExitUsage, "", "parsing UUID", "enable", "1")
	keys(command.ExitError, "", "no record for this disk", "disable", pins.UUID{9}.String())

	var shown adminapi.Record
	if err := json.Unmarshal([]byte(keys(0, "", "", "show", disk)), &shown); err != nil {
		t.Fatal(err)
	}
	if shown.Header != header || shown.State != "enabled" || len(shown.ReferenceValues) == 0 {
		t.Errorf("show says %+v", shown)
	}
	record, err := book.Records.Get(t.Context(), header.DiskUUID)
	if err != nil {
		t.Fatal(err)
	}
	if err := book.Release(t.Context(), ledger.Claim{Record: record, Launch: store.Launch{ReportID: snp.ReportID{0xee}}, Fresh: true}); err != nil {
		t.Fatal(err)
	}
	keys(0, "3           "+pins.Digest{0xee}.String(), "", "releases", disk)
	keys(0, book.Records.LogPublic(), "", "status")
	keys(0, "example.org/kms\n0\n", "", "status", "--checkpoint-only")
	keys(0, "deleted disk "+disk, "", "delete", disk)
	keys(0, `"report_id": "`+pins.Digest{0xee}.String(), "", "releases", "--json", disk)
	keys(0, "spiffe id", "", "status", "--kms-user", "root")
	keys(command.ExitUsage, "", "unknown user", "status", "--kms-user", "no such user")
	keys(command.ExitUsage, "", "kms-user", "status", "--kms-user=")
	socket += "x"
	keys(command.ExitError, "", "hint: rootvouch-kms makes the socket", "list")
}
