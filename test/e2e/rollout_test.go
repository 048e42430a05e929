package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/rootvouch/rootvouch/demo"
	"github.com/rootvouch/rootvouch/kms/adminapi"
	"github.com/rootvouch/rootvouch/snp"
)

// release builds a release of a VM of its own, whose key goes to the key server, and
// makes it live.
func (c *chain) release(t *testing.T, name string, change func(map[string]any)) demo.Release {
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
	must(t)(c.Apply(t.Context(), r))
	t.Cleanup(func() { c.Rootvouch(t.Context(), "release", "retire", r.Dir) })
	return r
}

// diskOf is the UUID of a release's disk.
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

// launches are those that got the key of a release's disk.
func (c *chain) launches(t *testing.T, r demo.Release) []adminapi.Release {
	t.Helper()
	var all []adminapi.Release
	out := must(t)(c.Rootvouch(t.Context(), "keys", "releases", "--kms-socket", c.KMSSocket(), "--json", diskOf(t, r)))
	if err := json.Unmarshal(out, &all); err != nil {
		t.Fatal(err)
	}
	return all
}

// TestTenVMs launches ten VMs of one image, two at a time: each gets the key once, and
// is one launch of its own in the key server's book.
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
