package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/refval"
	"github.com/rootvouch/rootvouch/snp"
	"github.com/rootvouch/rootvouch/spire/admin"
)

func TestParseUser(t *testing.T) {
	self := admin.UID(uint32(os.Getuid()))
	for text, want := range map[string]admin.User{
		"": self, strconv.Itoa(os.Getuid()): self, "1234": admin.UID(1234), "root": admin.UID(0), "any": admin.AnyUser(),
	} {
		if got, err := parseUser(text); err != nil || got != want {
			t.Errorf("%q: got %v, %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"no-such-user", "-1", "4294967296", "Any"} {
		if got, err := parseUser(text); err == nil {
			t.Errorf("%q: got %v, want an error", text, got)
		}
	}
}

// Without further flags, only who makes the entry can be the key server.
func TestKMSEntryNamesTheCaller(t *testing.T) {
	program := filepath.Join(t.TempDir(), "rootvouch-kms")
	if err := os.WriteFile(program, []byte("x"), 0o700); err != nil {
		t.Fatal(err)
	}
	groups, err := (&entriesFlags{domain: "example.org", kms: program}).groups(time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, s := range groups[0].Entries[0].Selectors {
		all = append(all, s.String())
	}
	if want := "unix:uid:" + strconv.Itoa(os.Getuid()); !strings.Contains(strings.Join(all, " "), want) {
		t.Errorf("selectors are %q, want %s among them", all, want)
	}
}

// A node alias for a measurement without a kernel is made only if that was asked for.
func TestUnmeasuredKernel(t *testing.T) {
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	values, err := refval.New(refval.EmulatedARK(pins.Digest{1}), []refval.Measurement{{
		Digest: snp.Measurement{1}, HostCode: refval.HostCodeNone, Kernel: refval.KernelUnmeasured, Gate: refval.GateNone, VCPUs: 1, CPUType: "EPYC-v4",
	}}).Encode()
	if err != nil {
		t.Fatal(err)
	}
	silent := strings.Replace(string(values), `"unmeasured"`, `"measured"`, 1)
	f := entriesFlags{domain: "example.org", name: "web", fetchkey: write("fetchkey", []byte("x")), fetchkeyPath: "/fetchkey"}
	for _, row := range []struct {
		values   string
		accepted bool
		want     string
	}{
		{silent, false, "the digest covers no kernel"},
		{silent, true, "the digest covers no kernel"},
		{string(values), false, `kernel is "unmeasured", want "measured"`},
		{string(values), true, ""},
	} {
		f.refvals, f.unmeasuredKernel = []string{write("refval.json", []byte(row.values))}, row.accepted
		_, err := f.groups(time.Time{})
		if (err == nil) != (row.want == "") || err != nil && !strings.Contains(err.Error(), row.want) {
			t.Errorf("accepted %v: got %v, want an error with %q", row.accepted, err, row.want)
		}
	}
}

// TestFormats prints the entries of a VM and of a key server in both declarative formats.
func TestFormats(t *testing.T) {
	dir := t.TempDir()
	values, err := refval.New(refval.EmulatedARK(pins.Digest{1}), []refval.Measurement{{
		Digest: snp.Measurement{1}, HostCode: refval.HostCodeNone, Kernel: refval.KernelMeasured, Gate: refval.GateNone, VCPUs: 1, CPUType: "EPYC-v4",
		Provenance: refval.Provenance{KernelSHA256: pins.Digest{1}},
	}}).Encode()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "refval.json")
	if err := os.WriteFile(path, values, 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"entries", "--trust-domain", "example.org", "--name", "web", "--refval", path, "--fetchkey-sha256", strings.Repeat("ab", 32),
		"--kms-selector", "k8s:ns:rootvouch", "--kms-selector", "k8s:sa:kms", "--ttl", "1h"}
	print := func(code int, more ...string) string {
		t.Helper()
		var stdout, stderr bytes.Buffer
		if got := run(append(slices.Clone(args), more...), &stdout, &stderr); got != code {
			t.Errorf("%q: exit status is %d, want %d: %s", more, got, code, &stderr)
		}
		return stdout.String()
	}
	text := print(0, "--format", "clusterstaticentry")
	objects := strings.Split(text, "---\n")[1:]
	if len(objects) != 3 {
		t.Fatalf("got %d objects, want 3:\n%s", len(objects), text)
	}
	for i, wants := range [][]string{
		{"kind: ClusterStaticEntry\n", "  name: rootvouch-", `  spiffeID: "spiffe://example.org/node/web"`, `  parentID: "spiffe://example.org/spire/server"`, `    - "amd_sev_snp:measurement:01`},
		{`  spiffeID: "spiffe://example.org/vm/web"`, `  parentID: "spiffe://example.org/node/web"`, `    - "unix:sha256:abab`, `  x509SVIDTTL: "1h0m0s"`},
		{`  spiffeID: "spiffe://example.org/kms"`, `    - "k8s:ns:rootvouch"`, `    - "k8s:sa:kms"`},
	} {
		for _, want := range wants {
			if !strings.Contains(objects[i], want) {
				t.Errorf("object %d has no %q:\n%s", i, want, objects[i])
			}
		}
	}
	var file struct {
		Entries []struct {
			SPIFFEID  string `json:"spiffe_id"`
			Selectors []struct{ Type, Value string }
			Expiry    int64 `json:"entryExpiry"`
		}
	}
	if err := json.Unmarshal([]byte(print(0, "--format", "entry-create", "--release-id", "r1", "--end", "2030-01-02T03:04:05Z")), &file); err != nil {
		t.Fatal(err)
	}
	if e := file.Entries; len(e) != 3 || e[0].SPIFFEID != "spiffe://example.org/node/web/r1" || e[0].Expiry != 1893553445 || e[2].Expiry != 0 || e[2].Selectors[1].Value != "sa:kms" {
		t.Errorf("entries are %+v", e)
	}
	print(64, "--format", "yaml")
	print(64, "--format", "clusterstaticentry", "--release-id", "r1", "--end", "2030-01-02T03:04:05Z")
	print(64, "--format", "entry-create", "--end", "2030-01-02T03:04:05Z")
	print(64, "--format", "entry-create", "--socket", "s")
	print(64)
}
