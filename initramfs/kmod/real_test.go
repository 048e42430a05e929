package kmod

import (
	"path/filepath"
	"slices"
	"testing"

	"github.com/rootvouch/rootvouch/internal/needs"
)

func TestRealKernel(t *testing.T) {
	dir := needs.Part(t, "kernel")
	tree, err := Open([]string{dir}, "")
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
