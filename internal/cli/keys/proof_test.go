package keys

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rootvouch/rootvouch/internal/cli/image"
	"github.com/rootvouch/rootvouch/internal/command"
	"github.com/rootvouch/rootvouch/pins"
)

// buildDisk makes a small disk, with its key and pins.
func buildDisk(t *testing.T, dir, name string) (disk, key, pinsFile string) {
	t.Helper()
	root := filepath.Join(dir, name+"-root")
	if err := os.MkdirAll(filepath.Join(root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "etc", "hostname"), []byte(name), 0o644); err != nil {
		t.Fatal(err)
	}
	disk, key, pinsFile = filepath.Join(dir, name+".img"), filepath.Join(dir, name+".key"), filepath.Join(dir, name+".json")
	var out bytes.Buffer
	if code := command.Main(image.New(), []string{"build", "--root", root, "--out", disk, "--key-out", key, "--pins-out", pinsFile}, &out, &out); code != 0 {
		t.Fatalf("image build: %d\n%s", code, &out)
	}
	return disk, key, pinsFile
}

// TestProof: with --disk nothing is sent that would not open the disk.
func TestProof(t *testing.T) {
	dir := t.TempDir()
	socket, book := startAdmin(t, dir)
	disk, key, pinsFile := buildDisk(t, dir, "web")
	otherDisk, otherKey, _ := buildDisk(t, dir, "other")
	put := func(wantCode int, want, key, disk string) {
		t.Helper()
		var out bytes.Buffer
		code := command.Main(New(), []string{"put", "--kms-socket", socket, "--spiffe-id", "spiffe://example.org/vm", "--pins", pinsFile,
			"--evidence", "not-required", "--key", key, "--disk", disk}, &out, &out)
		if code != wantCode || !strings.Contains(out.String(), want) {
			t.Errorf("put: exit status %d\n%s, want %d with %q", code, &out, wantCode, want)
		}
	}
	put(command.ExitError, "nothing was sent", otherKey, disk)
	put(command.ExitError, "nothing was sent", key, otherDisk)
	put(command.ExitError, "nothing was sent", key, key)
	if all, err := book.Records.List(t.Context(), pins.UUID{}, 10); err != nil || len(all) != 0 {
		t.Errorf("there are %d records, %v, want none", len(all), err)
	}
	put(0, "registered disk", key, disk)
}

// TestLifeOfAKey takes a record through all that can become of it.
func TestLifeOfAKey(t *testing.T) {
	dir := t.TempDir()
	socket, _ := startAdmin(t, dir)
	_, key, pinsFile := buildDisk(t, dir, "web")
	data, err := os.ReadFile(pinsFile)
	if err != nil {
		t.Fatal(err)
	}
	p, err := pins.Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	disk := p.DiskUUID.String()
	keys := func(wantCode int, want string, args ...string) {
		t.Helper()
		var out bytes.Buffer
		code := command.Main(New(), append([]string{args[0], "--kms-socket", socket}, args[1:]...), &out, &out)
		if code != wantCode || !strings.Contains(out.String(), want) {
			t.Errorf("keys %s: exit status %d\n%s, want %d with %q", strings.Join(args, " "), code, &out, wantCode, want)
		}
	}
	put := []string{"put", "--spiffe-id", "spiffe://example.org/vm", "--pins", pinsFile, "--evidence", "not-required", "--key", key}
	keys(0, "generation 1", put...)
	keys(0, "generation 2", append(put, "--replace", "--ticket", "CHG-1")...)
	keys(command.ExitUsage, "want one of --replace and --beside", append(put, "--replace", "--beside")...)
	keys(command.ExitUsage, "printable ASCII", append(put, "--ticket", "Ü")...)
	keys(command.ExitError, "without evidence nothing tells", append(put, "--beside")...)
	keys(command.ExitError, "no record stands beside", "confirm", disk)
	keys(command.ExitError, "no record stands beside", "withdraw", disk)
	keys(0, "replaced", "list", "--kept")
	keys(0, "restored disk "+disk+": it is enabled, generation 1", "restore", disk)
	keys(0, "is retired", "retire", disk)
	keys(command.ExitError, "is retired", "enable", disk)
	keys(0, "is enabled", "enable", "--retired", disk)
	keys(command.ExitUsage, "nothing to update", "update", disk)
	keys(command.ExitUsage, "go with --refval", "update", "--keep-old", "1h", "--max-releases-per-hour", "5", disk)
	keys(0, "updated disk", "update", "--max-releases-per-hour", "5", disk)
	keys(0, `"max_releases_per_hour": 5`, "show", disk)
	keys(0, "1\n", "list", "--count")
	keys(0, "0\n", "list", "--count", "--state", "disabled")
	keys(0, "0\n", "list", "--count", "--after", disk)
	keys(0, "1\n", "list", "--count", "--limit", "1")
	keys(0, disk, "list", "--limit", "1", "--spiffe-id", "spiffe://example.org/vm")
	keys(command.ExitUsage, `--state is "on"`, "list", "--state", "on")
	keys(command.ExitUsage, "--measurement", "list", "--measurement", "00")
	keys(command.ExitUsage, "--kept goes only with", "list", "--kept", "--count")
	keys(0, "records     1", "status")
	keys(0, "deleted disk", "delete", disk)
	keys(0, `"why": "deleted"`, "show", disk)
	keys(command.ExitError, "are kept until "+time.Now().Add(30*24*time.Hour).UTC().Format("2006-01"), "purge", disk)
	keys(0, "destroyed 1 records", "purge", "--early", "--generation", "2", disk)
	keys(0, "destroyed 1 records", "purge", "--early", disk)
	keys(command.ExitError, "not even a kept one", "restore", disk)
}
