package boot_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"testing"

	"github.com/rootvouch/rootvouch/boot/bootconfig"
	"github.com/rootvouch/rootvouch/internal/needs"
)

// TestVolumeThroughput measures a volume, plain dm-crypt and a bare disk in one VM,
// in turns, for scripts/bench-volume.
func TestVolumeThroughput(t *testing.T) {
	needs.Boot(t)
	if os.Getenv("ROOTVOUCH_BENCH") == "" {
		t.Skip("SKIPPED: measures; scripts/bench-volume runs it")
	}
	b := volumeBench(t)
	const size = 128 << 20
	spare := filepath.Join(t.TempDir(), "spare")
	if err := os.WriteFile(spare, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(spare, size); err != nil {
		t.Fatal(err)
	}
	w := newTestVolumeOf(t, t.TempDir(), "volume", size+1<<20)
	v := b.vm(t)
	v.give(w)
	v.config.Devices = bootconfig.DevicesAny
	v.devices = append(v.devices, "-drive", "file="+spare+",format=raw,if=none,id=spare", "-device", "virtio-blk-pci,drive=spare")
	v.say("throughput:/data:" + strconv.Itoa(size/512))
	out := v.boot()
	figures := map[string]map[string][]float64{}
	for _, m := range regexp.MustCompile(`(?m)^guest: throughput: (disk|dm-crypt|volume) write ([0-9.]+) MB/s read ([0-9.]+) MB/s sync ([0-9.]+)/s`).FindAllStringSubmatch(out, -1) {
		for i, what := range []string{"write", "read", "sync"} {
			x, err := strconv.ParseFloat(m[i+2], 64)
			if err != nil {
				t.Fatal(err)
			}
			if figures[m[1]] == nil {
				figures[m[1]] = map[string][]float64{}
			}
			figures[m[1]][what] = append(figures[m[1]][what], x)
		}
	}
	median := func(on, what string) float64 {
		all := slices.Sorted(slices.Values(figures[on][what]))
		if len(all) == 0 {
			t.Fatalf("nothing was measured on %s:\n%s", on, out)
		}
		return all[len(all)/2]
	}
	for _, c := range []struct{ what, name, unit string }{
		{"write", "writing 48 MiB", "MB/s"}, {"read", "reading them", "MB/s"}, {"sync", "durable writes of 4 KiB", "a second"},
	} {
		volume, crypt, disk := median("volume", c.what), median("dm-crypt", c.what), median("disk", c.what)
		t.Logf("FIGURE %s: %.1f %s, %.2f of plain dm-crypt, %.2f of the disk alone", c.name, volume, c.unit, volume/crypt, volume/disk)
	}
}
