package kmod

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// kernelTree is Debian's kernel package as scripts/setup unpacks it.
func kernelTree(t testing.TB) string {
	t.Helper()
	cache := os.Getenv("ROOTVOUCH_CACHE")
	if cache == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			t.Skipf("SKIPPED: %v", err)
		}
		cache = filepath.Join(base, "rootvouch")
	}
	dir := filepath.Join(cache, "kernel")
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("SKIPPED: no kernel at %s (scripts/setup fetches it)", dir)
	}
	return dir
}

func TestRealKernel(t *testing.T) {
	dir := kernelTree(t)
	tree, err := Open(dir, "")
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(dir, "boot", "vmlinuz-"+tree.Version()); tree.KernelPath() != want {
		t.Errorf("kernel is %q, want %q", tree.KernelPath(), want)
	}
	s, err := tree.Select([]Want{
		{Names: []string{"erofs"}}, {Names: []string{"dm-verity"}}, {Names: []string{"dm-crypt"}},
		{Names: []string{"xts"}}, {Names: []string{"virtio_net"}}, {Names: []string{"ext4"}},
		{Names: []string{"sev-guest"}}, {Names: []string{"gone", "virtio_pci"}}, {Names: []string{"gone"}, Optional: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range s.Modules {
		got = append(got, m.Name)
	}
	// The closure of Linux 6.12 as Debian configures it; another kernel may need more.
	before := [][2]string{{"libcrc32c", "erofs"}, {"dm_mod", "dm_verity"}, {"dm_bufio", "dm_verity"}, {"reed_solomon", "dm_verity"},
		{"dm_mod", "dm_crypt"}, {"net_failover", "virtio_net"}, {"failover", "net_failover"}, {"tsm", "sev_guest"}, {"configfs", "tsm"}}
	for _, pair := range before {
		first, second := slices.Index(got, pair[0]), slices.Index(got, pair[1])
		if first < 0 || second < 0 || first > second {
			t.Errorf("got %q, want %s before %s", got, pair[0], pair[1])
		}
	}
	if want := []string{"ext4", "gone or virtio_pci"}; !slices.Equal(s.BuiltIn, want) {
		t.Errorf("built in: got %q, want %q", s.BuiltIn, want)
	}
	// ecb (of xts) and crc32c (of libcrc32c) are built in, the latter by alias.
	if want := []string{"gone"}; !slices.Equal(s.Missing, want) {
		t.Errorf("missing: got %q, want %q", s.Missing, want)
	}
}
