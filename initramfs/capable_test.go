package initramfs

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rootvouch/rootvouch/initramfs/kmod"
	"github.com/rootvouch/rootvouch/internal/needs"
	"github.com/rootvouch/rootvouch/test/initramfstest"
)

// TestOldKernel: a kernel with which PID 1 would refuse to boot gets no initramfs.
// The content of the module counts more than the kernel's version.
func TestOldKernel(t *testing.T) {
	o := fakeOptions(t)
	dir := initramfstest.Kernel(t)
	initramfstest.Files{"dm_verity.ko.xz": initramfstest.Pack(t, ".xz", initramfstest.Module("dm_verity", "depends=dm-mod,dm-bufio"))}.
		WriteTo(t, filepath.Join(dir, "usr/lib/modules", initramfstest.Version, "kernel"))
	o.Kernel = mustOpen(t, dir)
	if _, _, err := Build(o); err == nil || !strings.Contains(err.Error(), "does not know panic_on_error") || !strings.Contains(err.Error(), "want Linux 6.12 or later") {
		t.Errorf("got error %v", err)
	}
	for version, want := range map[string]bool{"6.11.9": false, "6.12": true, "6.12.1-fake": true, "7.0-rc1": true, "10.1": true, "5.20": false, "6": false, "": false, "x.y": false} {
		if err := checkKernel(version, kmod.Selection{}); (err == nil) != want {
			t.Errorf("dm-verity built into %q: got error %v", version, err)
		}
	}
}

// TestDrivers: each target has drivers, and both stock kernels have all of them.
func TestDrivers(t *testing.T) {
	if _, err := Drivers("vmware"); err == nil || !strings.Contains(err.Error(), "want one of aws, azure, btrfs, gcp, nvme, virtio-iommu, virtio-scsi, xfs") {
		t.Errorf("unknown target: got error %v", err)
	}
	for _, part := range []string{"kernel", "kernel-backports"} {
		tree := mustOpen(t, needs.Part(t, part))
		for target, module := range map[string]string{"nvme": "", "virtio-scsi": "virtio_scsi", "virtio-iommu": "virtio_iommu", "aws": "ena", "gcp": "gve", "azure": "hv_netvsc", "xfs": "xfs", "btrfs": "btrfs"} {
			wants, err := Drivers(target)
			if err != nil {
				t.Fatal(err)
			}
			s, err := tree.Select(wants)
			s.Missing = slices.DeleteFunc(s.Missing, func(name string) bool { // names of algorithms, for checksums that are not used
				return target == "btrfs" && (name == "blake2b_256" || name == "xxhash64")
			})
			if err != nil || len(s.Missing) > 0 {
				t.Errorf("%s of %s: missing %q, error %v", target, part, s.Missing, err)
			}
			if module != "" && !slices.ContainsFunc(s.Modules, func(m kmod.Module) bool { return m.Name == module }) {
				t.Errorf("%s of %s: no module %s", target, part, module)
			}
		}
	}
	if got := len(DriverTargets()); got != 8 {
		t.Errorf("got %d targets, the test knows 8", got)
	}
}

// TestBackportsModules: the kernel that Debian splits into packages has all that
// the chain needs, given as these packages.
func TestBackportsModules(t *testing.T) {
	packages, err := filepath.Glob(filepath.Join(needs.Part(t, "kernel-backports/packages"), "*.deb"))
	if err != nil {
		t.Fatal(err)
	}
	tree, err := kmod.Open(packages, "")
	if err != nil {
		t.Fatal(err)
	}
	s, err := tree.Select(DefaultModules())
	if err != nil {
		t.Fatal(err)
	}
	if err := checkKernel(tree.Version(), s); err != nil {
		t.Error(err)
	}
	if data, err := tree.Kernel(); err != nil || len(data) < 1<<20 {
		t.Errorf("got a kernel of %d bytes, error %v", len(data), err)
	}
}
