package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// Release is a release's directory and the vm.json that it is built from.
type Release struct{ VM, Dir string }

// WriteVM writes a vm.json for a VM of that name. If change is not nil, it can
// change the document first.
func (d *Domain) WriteVM(path, name string, change func(document map[string]any)) error {
	document := map[string]any{
		"version": 1, "name": name, "trust_domain": TrustDomain,
		"root":      map[string]any{"path": d.Parts.Root},
		"kernel":    map[string]any{"trees": []string{d.Parts.KernelTree}},
		"firmware":  d.Parts.Firmware,
		"guest_bin": d.Parts.GuestBin,
		"shapes":    map[string]any{"vcpus": []int{VCPUs}, "cpu_types": []string{CPUType}},
		"trust":     map[string]any{"root": "emulated", "ark": filepath.Join(d.Collateral(), "ark.der")},
		"spire":     map[string]any{"addresses": []string{d.SPIREAddress()}, "trust_root": d.TrustRoot(), "socket": d.SPIRESocket(), "refval_dir": d.RefvalDir()},
		"kms":       map[string]any{"addresses": []string{d.KMSAddress()}, "socket": d.KMSSocket()},
	}
	if change != nil {
		change(document)
	}
	text, err := json.MarshalIndent(document, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644)
}

// BuildRelease builds a release. The disk's key goes straight to the key server.
func (d *Domain) BuildRelease(ctx context.Context, r Release, cache string) error {
	_, err := d.Rootvouch(ctx, "release", "build", "--vm", r.VM, "--out-dir", r.Dir, "--key-to", "key-server", "--cache-dir", cacheDir(cache))
	return err
}

// Apply makes a release live.
func (d *Domain) Apply(ctx context.Context, r Release, more ...string) ([]byte, error) {
	return d.Rootvouch(ctx, append([]string{"release", "apply", r.Dir}, more...)...)
}

// RunRelease launches a VM of a release. Further arguments go to `vm run`.
func (d *Domain) RunRelease(r Release, onLine func(string), more ...string) (*VM, error) {
	return d.runVM(onLine, append([]string{"--release-dir", r.Dir}, more...)...)
}

// manifest holds the parts of a release's manifest that the demo reads.
type manifest struct {
	Release string `json:"release"`
	Shapes  []struct {
		Digest string `json:"digest"`
	} `json:"shapes"`
}

func readManifest(dir string) (manifest, error) {
	var m manifest
	data, err := os.ReadFile(filepath.Join(dir, "manifest.json"))
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(data, &m); err != nil || len(m.Shapes) == 0 {
		return m, fmt.Errorf("reading the manifest in %s: no launch digest, %v", dir, err)
	}
	return m, nil
}
