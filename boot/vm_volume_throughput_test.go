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

// TestVolumeThroughput compares a volume, plain dm-crypt and a disk alone in one VM, in
// turns, and the memory that a volume takes, for scripts/bench-volume.
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
	truncate(t, spare, size)
	w := newTestVolumeOf(t, t.TempDir(), "volume", size+1<<20)
	first := b.vm(t)
	first.give(w)
	first.config.Devices = bootconfig.DevicesAny
	first.devices = append(first.devices, "-drive", "file="+spare+",format=raw,if=none,id=spare", "-device", "virtio-blk-pci,drive=spare")
	first.say("throughput:/data:"+strconv.Itoa(size/512), "close")
	formatted := first.boot()
	throughputs(t, formatted)
	committed(t, formatted, w)

	second := b.vm(t)
	second.give(w)
	second.say("memory:/data:" + w.header.DiskUUID.String())
	opened := second.boot()
	without := b.vm(t).boot()

	// in is a number of KiB on a console, in MiB.
	in := func(out, before string) float64 {
		t.Helper()
		m := regexp.MustCompile(before + ` ([0-9]+) KiB`).FindStringSubmatch(out)
		if m == nil {
			t.Fatalf("console has no line that matches %q:\n%s", before, out)
		}
		kib, err := strconv.ParseFloat(m[1], 64)
		if err != nil || kib == 0 {
			t.Fatalf("%s: got %q KiB, %v", before, m[1], err)
		}
		return kib / 1024
	}
	t.Logf("FIGURE most memory of PID 1: %.1f MiB in a boot that formats, %.1f MiB in one that opens, %.1f MiB in one without a volume, %.1f MiB at a close",
		in(formatted, "boot peaked at"), in(opened, "boot peaked at"), in(without, "boot peaked at"), in(formatted, "close peaked at"))
	t.Logf("FIGURE memory of the kernel for a volume of %d MiB that is open: %.1f MiB", size>>20+1, in(opened, "the open volume took"))
}

// throughputs reports the medians of what the guest measured, and their ratios.
func throughputs(t *testing.T, out string) {
	t.Helper()
	kinds := []struct{ name, unit string }{{"writing 48 MiB", "MB/s"}, {"reading them", "MB/s"}, {"durable writes of 4 KiB", "a second"}}
	figures := map[string][3][]float64{} // :: disk, dm-crypt or volume -> of each kind
	for _, m := range regexp.MustCompile(`(?m)^guest: throughput: (disk|dm-crypt|volume) write ([0-9.]+) MB/s read ([0-9.]+) MB/s sync ([0-9.]+)/s`).FindAllStringSubmatch(out, -1) {
		all := figures[m[1]]
		for i, text := range m[2:] {
			x, err := strconv.ParseFloat(text, 64)
			if err != nil {
				t.Fatal(err)
			}
			all[i] = append(all[i], x)
		}
		figures[m[1]] = all
	}
	median := func(on string, kind int) float64 {
		all := slices.Sorted(slices.Values(figures[on][kind]))
		if len(all) == 0 {
			t.Fatalf("nothing was measured on %s:\n%s", on, out)
		}
		return all[len(all)/2]
	}
	for i, kind := range kinds {
		volume, crypt, disk := median("volume", i), median("dm-crypt", i), median("disk", i)
		t.Logf("FIGURE %s: %.1f %s, %.2f of plain dm-crypt, %.2f of the disk alone", kind.name, volume, kind.unit, volume/crypt, volume/disk)
	}
}
