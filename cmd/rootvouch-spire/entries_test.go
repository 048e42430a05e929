package main

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

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
