package boot_test

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	mathrand "math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rootvouch/rootvouch/boot/bootconfig"
	"github.com/rootvouch/rootvouch/image"
	"github.com/rootvouch/rootvouch/internal/needs"
	"github.com/rootvouch/rootvouch/kms/keyapi"
	"github.com/rootvouch/rootvouch/luks2"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/volume"
	"github.com/rootvouch/rootvouch/xts"
)

// testVolume is a volume, with a key server's state of it.
type testVolume struct {
	path   string
	key    [32]byte
	header pins.Header
	state  keyapi.Volume // the state that the next launch is told
}

const testVolumeSize = 48 << 20

func newTestVolume(t *testing.T, dir, name string) *testVolume {
	t.Helper()
	return newTestVolumeOf(t, dir, name, testVolumeSize)
}

func newTestVolumeOf(t *testing.T, dir, name string, size int64) *testVolume {
	t.Helper()
	v := &testVolume{path: filepath.Join(dir, name+".img"), state: keyapi.Volume{Found: keyapi.FoundNew, Holder: keyapi.Holder{1}, CommitKey: [32]byte{2}}}
	rand.Read(v.key[:])
	var err error
	if v.header.DiskUUID, err = pins.NewUUID(rand.Reader); err != nil {
		t.Fatal(err)
	}
	header, err := volume.Header(v.key, v.header.DiskUUID)
	if err != nil {
		t.Fatal(err)
	}
	v.header.HeaderSHA256 = sha256.Sum256(header)
	if err := os.WriteFile(v.path, header, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(v.path, size); err != nil {
		t.Fatal(err)
	}
	return v
}

// copy returns the same volume in a file of its own.
func (v *testVolume) copy(t *testing.T) *testVolume {
	t.Helper()
	c := *v
	c.path = filepath.Join(t.TempDir(), "volume.img")
	copyWith(t, "--sparse=always", v.path, c.path)
	return &c
}

func copyWith(t *testing.T, how, from, to string) {
	t.Helper()
	if out, err := exec.Command("cp", how, from, to).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

func (v *testVolume) change(t *testing.T, offset int64, change func(b []byte)) {
	t.Helper()
	file, err := os.OpenFile(v.path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	b := make([]byte, 4096)
	if _, err := file.ReadAt(b, offset); err != nil {
		t.Fatal(err)
	}
	change(b)
	if _, err := file.WriteAt(b, offset); err != nil {
		t.Fatal(err)
	}
}

// give attaches a volume to a VM, measures it, and has its key released.
func (v *vm) give(volumes ...*testVolume) {
	v.t.Helper()
	for _, w := range volumes {
		v.volumes = append(v.volumes, w.path)
		v.measure(w)
		v.release1(w)
	}
}

// measure adds a volume to the boot configuration.
func (v *vm) measure(w *testVolume) {
	point := []string{"/data", "/srv/more"}[len(v.config.Volumes)]
	v.config.Volumes = append(v.config.Volumes, bootconfig.Volume{UUID: w.header.DiskUUID, MountPoint: point, Filesystem: bootconfig.Ext4})
}

func (v *vm) release1(w *testVolume) {
	v.t.Helper()
	v.volumeKeys = append(v.volumeKeys, w.key)
	state := w.state
	r := keyapi.Released{Key: w.key, Header: w.header, Generation: 1, KMSID: v.config.KMS.SPIFFEID, Volume: &state}
	reply, err := r.Marshal()
	if err != nil {
		v.t.Fatal(err)
	}
	v.set("release-"+w.header.DiskUUID.String(), string(reply))
}

func (v *vm) say(words ...string) {
	for _, w := range words {
		v.config.CommandLine += " guest.vol:" + w
	}
}

// committed applies the commits on a console to the volumes, as the key server
// does.
func committed(t *testing.T, out string, volumes ...*testVolume) {
	t.Helper()
	for _, w := range volumes {
		line := regexp.MustCompile(`(?m)^guest: commit ` + w.header.DiskUUID.String() + ` (.*)$`).FindStringSubmatch(out)
		if line == nil {
			t.Fatalf("volume %s was not committed:\n%s", w.header.DiskUUID, out)
		}
		var request keyapi.CommitRequest
		if err := json.Unmarshal([]byte(strings.TrimSpace(line[1])), &request); err != nil {
			t.Fatal(err)
		}
		if !request.Verify(w.state.CommitKey, w.header.DiskUUID) || request.Generation != w.state.Generation+1 {
			t.Fatalf("commit is %+v, want generation %d with the key of the release", request, w.state.Generation+1)
		}
		w.state.Found, w.state.Generation, w.state.Digest = keyapi.FoundClosed, request.Generation, request.Digest
		w.state.Holder[0]++
	}
}

func expect(t *testing.T, out string, patterns ...string) {
	t.Helper()
	for _, p := range patterns {
		if !regexp.MustCompile("(?m)^" + p).MatchString(out) {
			t.Errorf("console has no line that matches %q", p)
		}
	}
	if t.Failed() {
		t.Fatalf("console:\n%s", out)
	}
}

// volumeBench returns a bench whose root can make filesystems.
func volumeBench(t *testing.T, more ...string) *bench {
	t.Helper()
	return volumeBenchOf(t, append([]string{"mkfs.ext4"}, more...)...)
}

// volumeBenchOf returns a bench whose root has these programs, and cryptsetup.
func volumeBenchOf(t *testing.T, programs ...string) *bench {
	t.Helper()
	needs.Boot(t)
	b := newBench(t)
	guest := readFile(t, filepath.Join(b.bin, "guest"))
	files := map[string][]byte{"sbin/init": guest, "etc/proof": []byte("the root with tools"), "etc/mke2fs.conf": readFile(t, "/etc/mke2fs.conf"), "tmp/.keep": nil}
	for _, tool := range append(programs, "cryptsetup") {
		at := "usr/sbin/"
		if tool == "sqlite3" {
			at = "usr/bin/"
		}
		addProgram(t, files, needs.Tool(t, tool), at+tool)
	}
	secrets, err := image.NewSecrets(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	b.disk = b.newDisk(t, "tools", secrets, files)
	return b
}

// addProgram adds a program of this machine, with its libraries.
func addProgram(t *testing.T, files map[string][]byte, path, at string) {
	t.Helper()
	files[at] = readFile(t, path)
	out, err := exec.Command("ldd", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, library := range regexp.MustCompile(`(/[^ ]+) \(0x`).FindAllStringSubmatch(string(out), -1) {
		files[strings.TrimPrefix(library[1], "/")] = readFile(t, library[1])
	}
}

// TestVMVolumes follows two volumes through their life: new, closed, and opened
// again as they were closed. Then it makes a host's attacks on a volume and checks
// each result.
func TestVMVolumes(t *testing.T) {
	b := volumeBench(t)
	dir := t.TempDir()
	one, two := newTestVolume(t, dir, "one"), newTestVolume(t, dir, "two")

	first := b.vm(t)
	first.give(one, two)
	first.say("write:/data/proof:firstxx.", "write:/srv/more/proof:secondx.", "tables:"+one.header.DiskUUID.String(), "close")
	out := first.boot()
	expect(t, out, `rootvouch: volume: /data is new, and formatted`, `rootvouch: volume: /srv/more is new, and formatted`,
		`guest: mount /dev/dm-[0-9]+ on /data type ext4`, `guest: wrote /data/proof: <nil>`,
		`guest: boot log has volume `+one.header.DiskUUID.String()+` on /data, generation 0, new`,
		`guest: table of rootvouch-volume-.* is "capi:authenc\(hmac\(sha256\),xts\(aes\)\)-plain64 :96:logon:rootvouch:`,
		`guest: a key is left in a keyring: false`,
		`rootvouch: close: /data, generation 1 `, `rootvouch: close: /srv/more, generation 1 `)
	committed(t, out, one, two)
	t.Logf("first launch:\n%s", out)
	yesterday := one.copy(t)

	second := b.vm(t)
	second.give(one, two)
	second.say("read:/data/proof", "read:/srv/more/proof", "write:/data/proof:changed.", "close")
	out = second.boot()
	expect(t, out, `rootvouch: volume: /data is as it was closed, generation 1`, `guest: /data/proof has 32768 bytes, "firstxx\."`,
		`guest: /srv/more/proof has 32768 bytes, "secondx\."`,
		`guest: boot log has volume `+one.header.DiskUUID.String()+` on /data, generation 1, fresh`, `rootvouch: close: /data, generation 2 `)
	committed(t, out, one, two)

	layout, err := volume.LayoutOf(testVolumeSize)
	if err != nil {
		t.Fatal(err)
	}
	flip := func(offset uint64) func(*testing.T, *vm, *testVolume) {
		return func(t *testing.T, _ *vm, w *testVolume) {
			w.change(t, int64(offset&^4095), func(b []byte) { b[offset%4096] ^= 1 })
		}
	}
	tags := uint64(volume.Offset+volume.SuperblockSize) + layout.JournalSize()
	hasty := func(v *vm) { v.files["init"] = b.hasty }
	for _, c := range []struct {
		name string
		want string // after "rootvouch: refused: "
		long bool   // of `make vm` alone
		set  func(t *testing.T, v *vm, w *testVolume)
	}{
		{"the volume of yesterday", `volume: comparing vda with what was closed: digest is [0-9a-f]{64}, want [0-9a-f]{64} of generation 2: it was rolled back`, false,
			func(t *testing.T, v *vm, w *testVolume) { v.volumes[0] = yesterday.copy(t).path }},
		{"unclean and its record refuses that", `volume: checking vda: it was not closed by the launch that had it`, false,
			func(t *testing.T, v *vm, w *testVolume) {
				w.state.Found = keyapi.FoundUnclean
				flip(tags)(t, v, w)
				v.release1(w)
			}},
		{"a zeroed header with data behind it", `volume-key: looking for a disk whose header has UUID `, false,
			func(t *testing.T, v *vm, w *testVolume) {
				hasty(v)
				w.state.Found, w.state.Generation, w.state.Digest = keyapi.FoundNew, 0, pins.Digest{}
				v.release1(w)
				for at := int64(0); at < volume.Offset; at += 4096 {
					w.change(t, at, func(b []byte) { clear(b) })
				}
			}},
		{"a bit of a tag", `volume: comparing vda with what was closed: `, true, flip(tags + 100)},
		{"two sectors swapped with their tags", `volume: comparing vda with what was closed: `, true,
			func(t *testing.T, _ *vm, w *testVolume) { w.swap(t, "changed.", true) }},
		{"a sector of an older state with its tag", `volume: comparing vda with what was closed: `, true,
			func(t *testing.T, _ *vm, w *testVolume) { w.putBack(t, yesterday, "changed.", true) }},
		{"a bit of the journal", `volume: comparing vda with what was closed: `, true, flip(volume.Offset + volume.SuperblockSize + 9000)},
		{"a bit of the superblock", `volume: checking dm-integrity superblock: `, true, flip(volume.Offset + 9)},
		{"a bit of the header", `volume-key: looking for a disk whose first 1048576 bytes have SHA-256 `, true,
			func(t *testing.T, v *vm, w *testVolume) { hasty(v); flip(300<<10)(t, v, w) }},
		{"two disks with the same header", `volume-key: looking for volume .*: vd[ab] and vd[ab] have the same header`, true,
			func(t *testing.T, v *vm, w *testVolume) { v.volumes = append(v.volumes, yesterday.copy(t).path) }},
		{"the volume of another VM", `volume-key: looking for a disk whose header has UUID `, true,
			func(t *testing.T, v *vm, w *testVolume) { hasty(v); v.volumes[0] = two.copy(t).path }},
		{"truncated", `volume: checking dm-integrity superblock: .* was the volume truncated or grown\?|volume: checking dm-integrity superblock: `, true,
			func(t *testing.T, v *vm, w *testVolume) { truncate(t, w.path, testVolumeSize-(8<<20)) }},
		{"grown", `volume: checking dm-integrity superblock: `, true,
			func(t *testing.T, v *vm, w *testVolume) { truncate(t, w.path, testVolumeSize+(8<<20)) }},
		{"a release of a disk", `volume-key: checking release: it is of a disk`, true,
			func(t *testing.T, v *vm, w *testVolume) {
				r := keyapi.Released{Key: w.key, Header: w.header, Generation: 1, KMSID: v.config.KMS.SPIFFEID}
				reply, err := r.Marshal()
				if err != nil {
					t.Fatal(err)
				}
				v.set("release-"+w.header.DiskUUID.String(), string(reply))
			}},
		{"wrong key", `volume: opening vda: wrong key`, true,
			func(t *testing.T, v *vm, w *testVolume) { w.key[0]++; v.release1(w) }},
		{"read-only", `volume: opening the volume's disk: `, true,
			func(t *testing.T, v *vm, w *testVolume) {
				v.devices = append(v.devices, "-drive", "file="+w.path+",format=raw,if=none,id=ro,readonly=on", "-device", "virtio-blk-pci,drive=ro")
				v.volumes = nil
			}},
		{"no mkfs in the root", `volume: making btrfs: the root has no mkfs\.btrfs|modules: kernel has no filesystem "btrfs"`, true,
			func(t *testing.T, v *vm, w *testVolume) {
				w.state.Found, w.state.Generation, w.state.Digest = keyapi.FoundNew, 0, pins.Digest{}
				v.release1(w)
				v.config.Volumes[0].Filesystem = bootconfig.Btrfs
			}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			if c.long {
				needs.Matrix(t)
			}
			w := one.copy(t)
			v := b.vm(t)
			v.give(w)
			c.set(t, v, w)
			changed := readFile(t, w.path)
			out := v.boot()
			refused := regexp.MustCompile(`(?m)^rootvouch: refused: (.*?)\r?$`).FindAllStringSubmatch(out, -1)
			if len(refused) != 1 || !regexp.MustCompile("^(?:"+c.want+")").MatchString(refused[0][1]) {
				t.Errorf("got the refusals %q, want one that matches %q", refused, c.want)
			}
			for _, r := range refused {
				t.Logf("observed: refused: %s", r[1])
			}
			if strings.Contains(out, "guest: reached") || strings.Contains(out, "rootvouch: hand-over") {
				t.Error("the root filesystem was reached")
			}
			if after := readFile(t, w.path); !bytes.Equal(after, changed) {
				t.Error("the boot that was refused has written to the volume")
			}
			if t.Failed() {
				t.Logf("console:\n%s", out)
			}
		})
	}

	t.Run("a changed sector is an error and no data", func(t *testing.T) {
		t.Parallel()
		needs.Matrix(t)
		w := one.copy(t)
		data := readFile(t, w.path)
		at := tags + volume.RunSize
		// Every sector of the first data that is not zero, and so was written. The next
		// run of tags is behind 16 MiB.
		for end := at + 8<<20; at < end; at += 4096 {
			if !bytes.Equal(data[at:at+4096], make([]byte, 4096)) {
				data[at+1] ^= 1
			}
		}
		if err := os.WriteFile(w.path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		v := b.vm(t)
		v.give(w)
		expect(t, v.boot(), `rootvouch: refused: volume: mounting ext4 on /data: `)
	})

	// The digest does not cover the data. A changed sector shows when it is read.
	for name, change := range map[string]func(t *testing.T, w *testVolume){
		"two sectors swapped without their tags":     func(t *testing.T, w *testVolume) { w.swap(t, "changed.", false) },
		"a sector of an older state without its tag": func(t *testing.T, w *testVolume) { w.putBack(t, yesterday, "changed.", false) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			needs.Matrix(t)
			w := one.copy(t)
			change(t, w)
			v := b.vm(t)
			v.give(w)
			v.say("read:/data/proof")
			out := v.boot()
			expect(t, out, `guest: /data/proof has [0-9]+ bytes, ".*" \(read /data/proof: input/output error\)`)
			if strings.Contains(out, "firstxx.") {
				t.Errorf("the older data is read:\n%s", out)
			}
		})
	}

	t.Run("a crash and unclean accepted", func(t *testing.T) {
		t.Parallel()
		w := one.copy(t)
		v := b.vm(t)
		v.give(w)
		v.say("write:/data/proof:crashed.", "crash")
		expect(t, v.boot(), `guest: wrote /data/proof: <nil>`)
		w.state.Found, w.state.AcceptUnclean = keyapi.FoundUnclean, true
		v = b.vm(t)
		v.give(w)
		v.say("read:/data/proof", "close")
		out := v.boot()
		expect(t, out, `rootvouch: volume: /data was not closed: freshness unknown since generation 2`, `guest: /data/proof has 32768 bytes, "crashed\."`,
			`guest: boot log has volume .* on /data, generation 2, unclean`, `rootvouch: close: /data, generation 3 `)
		committed(t, out, w)
	})

	t.Run("a launch that wrote nothing leaves the volume fresh", func(t *testing.T) {
		t.Parallel()
		needs.Matrix(t)
		w := one.copy(t)
		w.state.Found = keyapi.FoundUnclean
		v := b.vm(t)
		v.give(w)
		v.say("read:/data/proof", "close")
		expect(t, v.boot(), `rootvouch: volume: /data is as it was closed, generation 2`, `guest: /data/proof has 32768 bytes, "changed\."`)
	})

	t.Run("the operator's word", func(t *testing.T) {
		t.Parallel()
		needs.Matrix(t)
		w := yesterday.copy(t)
		w.state = one.state
		w.state.Found = keyapi.FoundAccepted
		v := b.vm(t)
		v.give(w)
		v.say("read:/data/proof", "close")
		expect(t, v.boot(), `rootvouch: volume: /data is accepted as it is, by the operator's word: freshness unknown since generation 2`,
			`guest: /data/proof has 32768 bytes, "firstxx\."`, `rootvouch: close: /data, generation 3 `)
	})

	// The owner's desk is a VM here, since it needs a device-mapper.
	t.Run("cryptsetup opens it with the key", func(t *testing.T) {
		t.Parallel()
		w := one.copy(t)
		v := b.vm(t)
		v.give(newTestVolume(t, t.TempDir(), "other")) // whose modules are loaded
		v.devices = append(v.devices, "-drive", "file="+w.path+",format=raw,if=none,id=desk", "-device", "virtio-blk-pci,drive=desk")
		v.config.Devices = bootconfig.DevicesAny
		v.say("desk:" + fmt.Sprintf("%x", w.key))
		out := v.boot()
		expect(t, out, `guest: cryptsetup opened it: /desk/proof has 32768 bytes, "changed\."`)
	})
}

func truncate(t *testing.T, path string, size int64) {
	t.Helper()
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
}

// TestVMVolumeDatabase cuts the power of a VM again and again while a database
// commits. After the next boot every committed row is there, and the database's own
// checker passes. The host keeps all data written to the guest's disk, so this is
// the loss of a VM, not of the host.
func TestVMVolumeDatabase(t *testing.T) {
	needs.Matrix(t)
	cuts := 3
	if text := os.Getenv("ROOTVOUCH_CUTS"); text != "" {
		var err error
		if cuts, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	b := volumeBench(t, "sqlite3")
	w := newTestVolume(t, t.TempDir(), "database")
	committed := regexp.MustCompile(`^guest: database: committed ([0-9]+)`)
	rows := 0 // that were committed, as far as the guest could say
	for cut := range cuts {
		v := b.vm(t)
		v.give(w)
		v.say("database:/data/db")
		said := 0
		v.onLine("guest: database: committed ", func() {
			if said++; said > cut%5 {
				time.AfterFunc(time.Duration(mathrand.N(400))*time.Millisecond, v.kill)
			}
		})
		out := v.bootTo("killed")
		found := regexp.MustCompile(`(?m)^guest: database: integrity_check is "ok", rows are ([0-9]+)`).FindStringSubmatch(out)
		if found == nil {
			t.Fatalf("cut %d: the database does not say that it is whole:\n%s", cut, out)
		}
		if n, _ := strconv.Atoi(found[1]); n < rows {
			t.Fatalf("cut %d: the database has %d rows, want at least %d", cut, n, rows)
		}
		for _, line := range strings.Split(out, "\n") {
			if m := committed.FindStringSubmatch(line); m != nil {
				rows, _ = strconv.Atoi(m[1])
			}
		}
		w.state.Found, w.state.AcceptUnclean = keyapi.FoundUnclean, true
	}
	t.Logf("%d power cuts, %d rows", cuts, rows)
}

// sectors returns the numbers of the volume's sectors whose plaintext begins so.
func (v *testVolume) sectors(t *testing.T, text string) []uint64 {
	t.Helper()
	cipher, err := xts.NewCipher(v.volumeKey(t)[:luks2.VolumeKeySize])
	if err != nil {
		t.Fatal(err)
	}
	data := readFile(t, v.path)
	layout, err := volume.LayoutOf(uint64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	var found []uint64
	plain := make([]byte, volume.SectorSize)
	for n := range layout.DataSize / volume.SectorSize {
		at, _ := placesOf(layout, n)
		cipher.Decrypt(plain, data[at:at+volume.SectorSize], n*8, volume.SectorSize)
		if bytes.HasPrefix(plain, []byte(text)) {
			found = append(found, n)
		}
	}
	return found
}

// placesOf returns the offsets of a sector's data and of its tag
// (docs/spec/volume.md).
func placesOf(l volume.Layout, n uint64) (data, tag uint64) {
	const area = 4096 // sectors
	run := volume.Offset + volume.SuperblockSize + l.JournalSize() + n/area*(volume.RunSize+area*volume.SectorSize)
	return run + volume.RunSize + n%area*volume.SectorSize, run + n%area*volume.TagSize
}

// exchange copies a sector from another volume into this one.
func (v *testVolume) exchange(t *testing.T, to uint64, other *testVolume, from, size uint64) {
	t.Helper()
	data := readFile(t, other.path)[from : from+size]
	file, err := os.OpenFile(v.path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.WriteAt(data, int64(to)); err != nil {
		t.Fatal(err)
	}
}

// swap exchanges the first two sectors that begin with text, with or without their
// tags.
func (v *testVolume) swap(t *testing.T, text string, tags bool) {
	t.Helper()
	found := v.sectors(t, text)
	if len(found) < 2 {
		t.Fatalf("volume has %d sectors that begin with %q, want two", len(found), text)
	}
	layout, err := volume.LayoutOf(testVolumeSize)
	if err != nil {
		t.Fatal(err)
	}
	before := v.copy(t)
	for i, n := range found[:2] {
		data, tag := placesOf(layout, n)
		otherData, otherTag := placesOf(layout, found[1-i])
		v.exchange(t, data, before, otherData, volume.SectorSize)
		if tags {
			v.exchange(t, tag, before, otherTag, volume.TagSize)
		}
	}
}

// putBack restores the older state of the first sector that begins with text, with
// or without its tag.
func (v *testVolume) putBack(t *testing.T, older *testVolume, text string, tags bool) {
	t.Helper()
	layout, err := volume.LayoutOf(testVolumeSize)
	if err != nil {
		t.Fatal(err)
	}
	now, then := readFile(t, v.path), readFile(t, older.path)
	for _, n := range v.sectors(t, text) {
		data, tag := placesOf(layout, n)
		if bytes.Equal(now[data:data+volume.SectorSize], then[data:data+volume.SectorSize]) {
			continue
		}
		v.exchange(t, data, older, data, volume.SectorSize)
		if tags {
			v.exchange(t, tag, older, tag, volume.TagSize)
		}
		return
	}
	t.Fatalf("no sector that begins with %q was another one before", text)
}
