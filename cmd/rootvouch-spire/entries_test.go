package main

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

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
	groups, err := (&entriesFlags{domain: "example.org", kms: program}).groups()
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
		_, err := f.groups()
		if (err == nil) != (row.want == "") || err != nil && !strings.Contains(err.Error(), row.want) {
			t.Errorf("accepted %v: got %v, want an error with %q", row.accepted, err, row.want)
		}
	}
}
