package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/rootvouch/rootvouch/demo"
	"github.com/rootvouch/rootvouch/internal/needs"
	"github.com/rootvouch/rootvouch/kms/adminapi"
	"github.com/rootvouch/rootvouch/snp"
)

// release builds a release of a separate VM, registers its key with the key server,
// and makes the release live. Further arguments go to "release apply".
func (c *chain) release(t *testing.T, name string, change func(map[string]any), more ...string) demo.Release {
	t.Helper()
	dir := t.TempDir()
	r := demo.Release{VM: filepath.Join(dir, "vm.json"), Dir: filepath.Join(dir, "release")}
	if err := c.WriteVM(r.VM, name, change); err != nil {
		t.Fatal(err)
	}
	cache, err := demo.CacheDir()
	if err == nil {
		err = c.BuildRelease(t.Context(), r, cache)
	}
	if err != nil {
		t.Fatal(err)
	}
	must(t)(c.Apply(t.Context(), r, more...))
	t.Cleanup(func() { c.Rootvouch(t.Context(), "release", "retire", r.Dir) })
	return r
}

// diskOf returns the UUID of a release's disk.
func diskOf(t *testing.T, r demo.Release) string {
	t.Helper()
	var m struct {
		Disk string `json:"disk_uuid"`
	}
	if err := json.Unmarshal(read(t, filepath.Join(r.Dir, "manifest.json")), &m); err != nil || m.Disk == "" {
		t.Fatalf("manifest has no disk_uuid: %v", err)
	}
	return m.Disk
}

// launches returns the launches that got the key of a release's disk.
func (c *chain) launches(t *testing.T, r demo.Release) []adminapi.Release {
	t.Helper()
	var all []adminapi.Release
	out := must(t)(c.Rootvouch(t.Context(), "keys", "releases", "--kms-socket", c.KMSSocket(), "--json", diskOf(t, r)))
	if err := json.Unmarshal(out, &all); err != nil {
		t.Fatal(err)
	}
	return all
}

// TestTenVMs launches ten VMs of one image, two at a time. Each gets the key once,
// and each is a separate launch in the key server's book.
func TestTenVMs(t *testing.T) {
	if os.Getenv("ROOTVOUCH_VM") != "all" {
		t.Skip("SKIPPED: ten boots are make vm's")
	}
	c := setUp(t)
	r := c.release(t, "fleet", nil)
	const vms = 10
	slots := make(chan struct{}, 2)
	var waiting sync.WaitGroup
	errs := make([]error, vms)
	for i := range vms {
		waiting.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			vm, err := c.RunRelease(r, nil, "--memory", "512M", "--timeout", (5 * time.Minute).String())
			if err != nil {
				errs[i] = err
				return
			}
			defer vm.Stop()
			errs[i] = vm.Reached(t.Context(), "rootvouch: switch:")
		})
	}
	waiting.Wait()
	for i, err := range errs {
		if err != nil {
			t.Errorf("VM %d: %v", i, err)
		}
	}
	seen := map[snp.ReportID]bool{}
	for _, l := range c.launches(t, r) {
		seen[l.ReportID] = true
	}
	if all := c.launches(t, r); len(all) != vms || len(seen) != vms {
		t.Errorf("%d releases to %d launches, want one to each of %d", len(all), len(seen), vms)
	}
}

// TestReleaseVolume: a volume outlives a release. The first launch of the first
// release formats the volume. The second release finds the closed contents, and the
// first release no longer gets the volume's key.
func TestReleaseVolume(t *testing.T) {
	needs.Matrix(t)
	c := setUp(t)
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	must(t)(c.Rootvouch(t.Context(), "volume", "create", "--size", "64M", "--out", path("data.img"), "--key-out", path("data.key"), "--pins-out", path("data.json")))
	root := c.toolRoot(t)
	change := func(clockFloor string) func(map[string]any) {
		return func(d map[string]any) {
			d["root"] = map[string]any{"path": root}
			d["volumes"] = []any{map[string]any{"pins": path("data.json"), "mount_point": "/data"}}
			d["boot"] = map[string]any{"clock_floor": clockFloor}
		}
	}
	run := func(r demo.Release, want ...string) {
		t.Helper()
		vm, err := c.RunRelease(r, nil, "--volume", path("data.img"), "--timeout", (5 * time.Minute).String())
		if err != nil {
			t.Fatal(err)
		}
		defer vm.Stop()
		for _, text := range want {
			if err := vm.Reached(t.Context(), text); err != nil {
				t.Fatal(err)
			}
		}
		<-vm.Ended()
	}
	first := c.release(t, "db", change("2026-01-01T00:00:00Z"), "--volume-key", path("data.key"))
	run(first, "rootvouch: volume: /data is new, and formatted", "volume has: .", "rootvouch: close: /data, generation 1")
	second := c.release(t, "db", change("2026-01-02T00:00:00Z"), "--old-end", "now")
	run(second, "rootvouch: volume: /data is as it was closed, generation 1", "volume has: x.", "rootvouch: close: /data, generation 2")
	// The launch gets no identity, and so no key: PID 1 asks until its bound, and
	// powers off.
	run(first, "rootvouch: refused: ")
}
