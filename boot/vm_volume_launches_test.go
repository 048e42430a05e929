package boot_test

import (
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rootvouch/rootvouch/boot/bootconfig"
	"github.com/rootvouch/rootvouch/initramfs"
	"github.com/rootvouch/rootvouch/initramfs/kmod"
	"github.com/rootvouch/rootvouch/internal/needs"
	"github.com/rootvouch/rootvouch/kms/audit"
	"github.com/rootvouch/rootvouch/kms/store"
	"github.com/rootvouch/rootvouch/volume"
)

// closedOnce returns a rig whose volume was formatted, written, and closed as
// generation 1.
func closedOnce(t *testing.T, b *bench, policy store.VolumePolicy) *volumeRig {
	t.Helper()
	w := newVolumeRig(t, b, policy)
	w.step(fault{name: "the beginning"})
	if v := w.server.volume(w.w); v.State != store.VolumeClosed || v.Generation != 1 {
		t.Fatalf("volume is %+v, want it closed as generation 1", v)
	}
	return w
}

// events counts the log's leaves of one kind.
func (s *keyServer) events(event audit.Event) (n int) {
	s.t.Helper()
	for _, leaf := range s.Leaves(s.t) {
		if leaf.Event == event {
			n++
		}
	}
	return n
}

// TestVMVolumeTwoLaunches starts two VMs with one volume. Each has a copy of it, as
// on two hosts. They race for the volume.
func TestVMVolumeTwoLaunches(t *testing.T) {
	needs.Matrix(t)
	b := volumeBench(t)

	// both boots both VMs, and returns their consoles. The VM that has opened the
	// volume keeps it until the other VM has ended, or has opened it as well.
	both := func(t *testing.T, w *volumeRig) map[string]string {
		t.Helper()
		var mu sync.Mutex
		out, opened := map[string]string{}, map[string]bool{}
		w.server.watch(func(m message) bool {
			mu.Lock()
			defer mu.Unlock()
			return m.what != "hold" || len(out) > 0 || len(opened) == 2
		})
		vms := map[string]*vm{}
		for _, name := range []string{"one", "other"} {
			v := b.vm(t)
			v.with(w.server, name, w.w.copy(t).path, w.w)
			v.say("rows:/data/rows:1", "hold", "close")
			v.onLine("guest: holding", func() {
				mu.Lock()
				defer mu.Unlock()
				opened[name] = true
			})
			vms[name] = v
		}
		var all sync.WaitGroup
		for name, v := range vms {
			all.Go(func() {
				console := v.boot()
				mu.Lock()
				defer mu.Unlock()
				out[name] = console
			})
		}
		all.Wait()
		w.server.watch(nil)
		return out
	}
	count := func(out map[string]string, what string) (n int) {
		for _, console := range out {
			if strings.Contains(console, what) {
				n++
			}
		}
		return n
	}

	// One VM gets the volume, the other is refused.
	t.Run("exclusive", func(t *testing.T) {
		w := closedOnce(t, b, store.VolumePolicy{Writers: store.Exclusive, Unclean: store.UncleanRefuse})
		out := both(t, w)
		if count(out, "rootvouch: close: /data, generation 2") != 1 || count(out, "another launch has the volume open") != 1 || count(out, "guest: reached") != 1 {
			t.Errorf("consoles:\n%s\n\n%s", out["one"], out["other"])
		}
		if v := w.server.volume(w.w); v.State != store.VolumeClosed || v.Generation != 2 || w.server.events(audit.VolumeFork) != 0 {
			t.Errorf("volume is %+v, want it closed as generation 2, without a fork", v)
		}
		w.server.judge()
	})
	// The newer VM gets the volume, and the close of the older one is a fork.
	t.Run("takeover", func(t *testing.T) {
		w := closedOnce(t, b, store.VolumePolicy{Writers: store.Takeover, Unclean: store.UncleanAccept})
		out := both(t, w)
		if count(out, "rootvouch: close: /data, generation 2") != 1 || count(out, "/data was not closed: running fetchkey: commit: key server refuses: ") != 1 || count(out, "guest: reached") != 2 {
			t.Errorf("consoles:\n%s\n\n%s", out["one"], out["other"])
		}
		if v := w.server.volume(w.w); v.State != store.VolumeClosed || v.Generation != 2 || w.server.events(audit.VolumeFork) == 0 {
			t.Errorf("volume is %+v, want it closed as generation 2, and a fork on the log", v)
		}
		w.server.judge()
	})
}

// TestVMVolumeNoNetwork removes the network before the close. The VM goes down
// nevertheless, and its data are there if the operator accepts a volume that was
// not closed.
func TestVMVolumeNoNetwork(t *testing.T) {
	needs.Matrix(t)
	b := volumeBench(t)
	w := closedOnce(t, b, store.VolumePolicy{Writers: store.Exclusive, Unclean: store.UncleanRefuse})
	v := b.vm(t)
	v.with(w.server, "no network", w.w.path, w.w)
	v.say("rows:/data/rows:5", "close")
	v.onLine("guest: closing", func() { v.monitor.with("set_link", map[string]any{"name": "net", "up": false}) })
	out := v.boot()
	expect(t, out, `guest: rows: synced 10`, `rootvouch: .*/data was not closed: `)
	if state := w.server.volume(w.w); state.State != store.VolumeOpen || state.Generation != 1 {
		t.Errorf("volume is %+v, want it open, of generation 1", state)
	}
	w.synced = 10
	w.end() // refused, accepted by the operator, and all rows are there
	t.Logf("observed: %s", outcome(out))
}

// TestVMVolumeRestored loses the key server. With a backup that is brought up to
// the log, nothing is lost. Without that log, a volume that was closed since the
// backup is refused until the operator gives its digest. A volume that was not used
// since the backup is fresh.
func TestVMVolumeRestored(t *testing.T) {
	needs.Matrix(t)
	b := volumeBench(t)
	w := closedOnce(t, b, store.VolumePolicy{Writers: store.Exclusive, Unclean: store.UncleanRefuse})
	backup := filepath.Join(t.TempDir(), "backup.db")
	w.server.Backup(t, backup)
	alone := filepath.Join(t.TempDir(), "alone")
	copyWith(t, "-a", w.server.Dir, alone)
	yesterday := w.w.copy(t).path
	w.step(fault{name: "after the backup"}) // generation 2
	w.server.Publish(t)
	current := w.w.copy(t).path
	digest, synced := w.server.volume(w.w).Digest, w.synced

	t.Run("with the log", func(t *testing.T) {
		w.t, w.server.t = t, t
		if _, err := w.server.Restore(t, backup); err != nil {
			t.Fatal(err)
		}
		w.w.path = yesterday
		w.refuses("it was rolled back, exchanged or damaged")
		w.w.path = filepath.Join(t.TempDir(), "volume.img")
		copyWith(t, "--sparse=always", current, w.w.path)
		w.step(fault{name: "after the restore"})
		if v := w.server.volume(w.w); v.Generation != 3 {
			t.Errorf("volume is %+v, want generation 3", v)
		}
		w.server.judge()
	})
	t.Run("without the log", func(t *testing.T) {
		w.t, w.server.t = t, t
		w.w.path = filepath.Join(t.TempDir(), "volume.img")
		copyWith(t, "--sparse=always", current, w.w.path)
		w.synced = synced
		w.server.Close()
		w.server.Dir = alone
		if err := w.server.Open(); err != nil {
			t.Fatal(err)
		}
		w.refuses("it was rolled back, exchanged or damaged")
		w.server.free(w.w)
		w.server.say(w.w, audit.VolumeRestore, func(v store.Volume, now time.Time) (store.Volume, error) { return v.Restore(digest, now) })
		w.step(fault{name: "after the operator's word"})
		w.end()
	})
}

// TestVMVolumeFilesystems makes each filesystem on a disk full of old data, and
// finds the written data after a close and after a power cut.
func TestVMVolumeFilesystems(t *testing.T) {
	needs.Matrix(t)
	b := volumeBench(t, "mkfs.xfs", "mkfs.btrfs")
	tree, err := kmod.Open([]string{filepath.Join(needs.Cache(t), "kernel")}, "")
	if err != nil {
		t.Fatal(err)
	}
	modules := initramfs.DefaultModules()
	for _, target := range []string{"xfs", "btrfs"} {
		wants, err := initramfs.Drivers(target)
		if err != nil {
			t.Fatal(err)
		}
		modules = append(modules, wants...)
	}
	if b.base, _, err = initramfs.Build(initramfs.Options{Kernel: tree, Modules: modules, GuestBin: b.bin}); err != nil {
		t.Fatal(err)
	}
	for filesystem, size := range map[bootconfig.VolumeFilesystem]int64{bootconfig.Ext4: 32 << 20, bootconfig.XFS: 340 << 20, bootconfig.Btrfs: 160 << 20} {
		t.Run(string(filesystem), func(t *testing.T) {
			t.Parallel()
			w := newVolumeRig(t, b, store.VolumePolicy{Writers: store.Exclusive, Unclean: store.UncleanAccept})
			w.filesystem = filesystem
			w.use(newTestVolumeOf(t, t.TempDir(), "volume", size))
			w.w.noise(t)
			w.step(fault{name: "formatted"})
			w.step(fault{name: "opened and cut", line: "guest: rows: synced ", nth: 2, wait: rowTime, cut: true})
			w.step(fault{name: "opened after the cut"})
			if v := w.server.volume(w.w); v.State != store.VolumeClosed || v.Generation != 2 {
				t.Errorf("volume is %+v, want it closed as generation 2", v)
			}
			w.step(fault{name: "opened after the close"})
			w.server.judge()
		})
	}
}

// noise fills the disk after the header with bytes that are no volume.
func (v *testVolume) noise(t *testing.T) {
	t.Helper()
	file, err := os.OpenFile(v.path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		t.Fatal(err)
	}
	random := mathrand.NewChaCha8([32]byte{1})
	buf := make([]byte, 1<<20)
	for at := int64(volume.Offset); at < info.Size(); at += int64(len(buf)) {
		random.Read(buf)
		if _, err := file.WriteAt(buf[:min(int64(len(buf)), info.Size()-at)], at); err != nil {
			t.Fatal(err)
		}
	}
}
