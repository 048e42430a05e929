package boot_test

import (
	"bytes"
	"fmt"
	"hash/crc32"
	mathrand "math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rootvouch/rootvouch/boot/bootconfig"
	"github.com/rootvouch/rootvouch/internal/needs"
	"github.com/rootvouch/rootvouch/kms/store"
	"github.com/rootvouch/rootvouch/luks2"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/test/childtest"
	"github.com/rootvouch/rootvouch/test/disktest"
	"github.com/rootvouch/rootvouch/volume"
)

// A fault happens to one launch: at a line of its console, or to a message between it and
// the key server.
type fault struct {
	name string
	line string        // that a console line begins with
	nth  int           // which of these lines, from 0
	wait time.Duration // bound of the random time after the line
	// message, if not empty, is lost: with always each time, otherwise once.
	message string
	always  bool
	// cut ends the VM there, as a power cut does.
	cut bool
}

// firstFaults are the faults of a launch that formats: before its key, at each
// step, in the middle of formatting, of mkfs and of the mount, and at each message.
func firstFaults() []fault {
	all := []fault{
		{name: "request lost and cut", message: "request of the release", cut: true},
		{name: "reply lost and cut", message: "reply to the release", cut: true},
		{name: "request lost once", message: "request of the release"},
		{name: "reply lost once", message: "reply to the release"},
		{name: "key server not reachable", message: "request of the release", always: true},
		{name: "no reply arrives", message: "reply to the release", always: true},
		{name: "commit lost and cut", message: "request of the commit", cut: true},
		{name: "commit made and cut", message: "reply to the commit", cut: true},
		{name: "key server not reachable at the close", message: "request of the commit", always: true},
	}
	for _, step := range []string{"mount", "volume-key", "volume: /data", "hand-over", "switch"} {
		all = append(all, fault{name: "cut after " + step, line: "rootvouch: " + step, cut: true})
	}
	for i := range 9 {
		all = append(all, fault{name: fmt.Sprintf("cut while formatting %d", i), line: "rootvouch: volume-key", wait: formatTime, cut: true})
	}
	return all
}

// Longest durations of the steps that a fault may hit, on this test's machines.
const (
	formatTime = 4 * time.Second
	openTime   = 2 * time.Second
	rowTime    = 400 * time.Millisecond
	closeTime  = 3 * time.Second
)

// laterFaults are the faults of a launch that finds a formatted volume: while it
// opens, writes, closes and commits.
func laterFaults() []fault {
	all := []fault{
		{name: "request lost and cut", message: "request of the release", cut: true},
		{name: "reply lost and cut", message: "reply to the release", cut: true},
		{name: "reply lost once", message: "reply to the release"},
		{name: "key server not reachable", message: "request of the release", always: true},
		{name: "commit lost and cut", message: "request of the commit", cut: true},
		{name: "commit made and cut", message: "reply to the commit", cut: true},
		{name: "commit lost once", message: "request of the commit"},
		{name: "commit made and its reply lost once", message: "reply to the commit"},
		{name: "key server not reachable at the close", message: "request of the commit", always: true},
		{name: "commit made and no reply arrives", message: "reply to the commit", always: true},
		{name: "cut after the close", line: "rootvouch: close: /data", cut: true},
	}
	for _, step := range []string{"volume-key", "volume: /data", "hand-over", "switch"} {
		all = append(all, fault{name: "cut after " + step, line: "rootvouch: " + step, cut: true})
	}
	for i := range 3 {
		all = append(all, fault{name: fmt.Sprintf("cut while opening %d", i), line: "rootvouch: volume-key", wait: openTime, cut: true})
	}
	for i := range 10 {
		all = append(all, fault{name: fmt.Sprintf("cut while writing %d", i), line: "guest: rows: synced ", nth: i % 4, wait: rowTime, cut: true})
	}
	for i := range 8 {
		all = append(all, fault{name: fmt.Sprintf("cut while closing %d", i), line: "guest: closing", wait: closeTime, cut: true})
	}
	return all
}

// volumeRig is one volume through its launches, with its key server and a checker
// that trusts neither. The checker knows the rows that a guest reported as durable,
// and every byte of the volume at each commit.
type volumeRig struct {
	t      *testing.T
	bench  *bench
	server *keyServer
	policy store.VolumePolicy
	w      *testVolume

	filesystem bootconfig.VolumeFilesystem // ext4, unless it is set
	random     *mathrand.Rand
	// disk is that of a host that loses its power after each launch, and with it what the
	// VM did not flush; nil on other hosts.
	disk *disktest.Disk
	lost int // sectors

	launches, cuts, refusals, stale int
	synced                          int      // rows that are durable
	older                           []string // former states of the volume
}

const faultVolumeSize = 20 << 20

func newVolumeRig(t *testing.T, b *bench, policy store.VolumePolicy) *volumeRig {
	t.Helper()
	seed := uint64(1)
	if text := os.Getenv("ROOTVOUCH_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	w := &volumeRig{t: t, bench: b, server: newKeyServer(t), policy: policy, random: mathrand.New(mathrand.NewPCG(seed, uint64(crc32.ChecksumIEEE([]byte(t.Name())))))}
	w.use(newTestVolumeOf(t, t.TempDir(), "volume", faultVolumeSize))
	return w
}

// use registers a volume. The launches get this volume from now on.
func (w *volumeRig) use(v *testVolume) {
	w.w = v
	w.server.register(v, w.policy)
}

// launch boots a VM with the volume, makes the fault happen, and returns the VM's
// console. If the VM gets so far, it writes some rows and closes the volume.
func (w *volumeRig) launch(f fault) string {
	w.t.Helper()
	w.launches++
	name := strconv.Itoa(w.launches)
	v := w.bench.vm(w.t)
	path := w.w.path
	if w.disk != nil {
		path = w.disk.URL()
	}
	v.with(w.server, name, path, w.w)
	if w.filesystem != "" {
		v.config.Volumes[0].Filesystem = w.filesystem
	}
	v.say("rows:/data/rows:5", "close")
	if f.line != "" {
		seen := 0
		v.onLine(f.line, func() {
			if seen++; seen == f.nth+1 {
				time.AfterFunc(time.Duration(w.random.Int64N(int64(f.wait)+1)), v.kill)
			}
		})
	}
	var once sync.Once
	w.server.watch(func(m message) bool {
		if f.message != m.String() || m.launch != name {
			return true
		}
		lost := f.always
		once.Do(func() {
			lost = true
			if f.cut {
				v.kill()
			}
		})
		return !lost
	})
	defer w.server.watch(nil)
	out := v.bootTo("guest-shutdown")
	if w.t.Failed() {
		w.t.FailNow()
	}
	if v.killed.Load() {
		w.cuts++
	}
	w.hostCut()
	for _, line := range regexp.MustCompile(`(?m)^guest: rows: synced ([0-9]+)\r?$`).FindAllStringSubmatch(out, -1) {
		w.synced, _ = strconv.Atoi(line[1])
	}
	w.check(out)
	return out
}

// hostCut has the host lose its power. Of what was not flushed nothing survives, or any part.
func (w *volumeRig) hostCut() {
	w.t.Helper()
	if w.disk == nil {
		return
	}
	survives := func() bool { return false }
	if w.launches%2 == 0 {
		survives = func() bool { return w.random.IntN(2) == 0 }
	}
	lost, err := w.disk.Cut(survives)
	if err != nil {
		w.t.Fatal(err)
	}
	w.lost += lost
}

var (
	refusedLine = regexp.MustCompile(`(?m)^rootvouch: refused: (.*?)\r?$`)
	foundLine   = regexp.MustCompile(`(?m)^guest: rows: found ([0-9]+)\r?$`)
)

func refusal(out string) string {
	if m := refusedLine.FindStringSubmatch(out); m != nil {
		return m[1]
	}
	return ""
}

// check fails if a console has a line that no launch may print.
func (w *volumeRig) check(out string) {
	w.t.Helper()
	for _, bad := range []string{"guest: rows: reading:", "guest: rows: writing:", "Kernel panic"} {
		if strings.Contains(out, bad) {
			w.t.Fatalf("console has %q:\n%s", bad, out)
		}
	}
}

// prepare acts as an operator after a fault, until the next launch can get the
// volume. It returns the freshness that this launch must report. formatted is false
// if no launch has finished formatting.
func (w *volumeRig) prepare() (want string) {
	w.t.Helper()
	v := w.server.volume(w.w)
	if v.State == store.VolumeOpen && w.policy.Writers == store.Exclusive {
		if w.random.IntN(3) == 0 {
			w.held()
		}
		w.server.free(w.w)
		v = w.server.volume(w.w)
	}
	same := v.Generation > 0 && w.server.asClosed(w.w.path, v.Digest)
	switch {
	case v.Accepted: // the launch that was to have it had no key
		return fmt.Sprintf("is accepted as it is, by the operator's word: freshness unknown since generation %d", v.Generation)
	case v.State == store.VolumeNew:
		if w.synced > 0 {
			w.t.Fatalf("volume is new, and %d rows were written to it", w.synced)
		}
		return "is new, and formatted"
	case same:
		return fmt.Sprintf("is as it was closed, generation %d", v.Generation)
	case v.State == store.VolumeClosed:
		w.t.Fatalf("volume is not what was closed as generation %d", v.Generation)
	case w.policy.Unclean == store.UncleanAccept:
		return fmt.Sprintf("was not closed: freshness unknown since generation %d", v.Generation)
	}
	w.refuses("it was not closed by the launch that had it|checking dm-integrity superblock: ")
	w.server.free(w.w)
	w.server.accept(w.w)
	return fmt.Sprintf("is accepted as it is, by the operator's word: freshness unknown since generation %d", v.Generation)
}

// held boots a launch while another launch has the volume.
func (w *volumeRig) held() { w.t.Helper(); w.refuses(store.ErrHeld.Error()) }

// refuses boots a launch that must refuse and must not change the volume.
func (w *volumeRig) refuses(why string) {
	w.t.Helper()
	before := readFile(w.t, w.w.path)
	out := w.launch(fault{})
	if !regexp.MustCompile(why).MatchString(refusal(out)) || strings.Contains(out, "guest: reached") {
		w.t.Fatalf("refusal is %q, want one that matches %q:\n%s", refusal(out), why, out)
	}
	if !bytes.Equal(before, readFile(w.t, w.w.path)) {
		w.t.Fatalf("a launch that was refused has written to the volume:\n%s", out)
	}
	w.refusals++
}

// step makes the fault happen to the next launch. That launch must find every
// durable row of earlier launches, and may report freshness only if the volume is
// as it was closed.
func (w *volumeRig) step(f fault) {
	w.t.Helper()
	want := w.prepare()
	before, bytesBefore := w.synced, readFile(w.t, w.w.path)
	out := w.launch(f)
	opened := strings.Contains(out, "rootvouch: volume: /data ")
	if strings.HasSuffix(f.message, "release") && (f.cut || f.always) && (opened || !bytes.Equal(bytesBefore, readFile(w.t, w.w.path))) {
		w.t.Fatalf("%s: the launch has opened the volume, or written to it, without a key:\n%s", f.name, out)
	}
	switch why := refusal(out); {
	case opened && !strings.Contains(out, "rootvouch: volume: /data "+want):
		w.t.Fatalf("%s: the launch says another thing of the volume, want %q:\n%s", f.name, want, out)
	case !opened && why != "" && f.message == "" && before == 0 && w.server.volume(w.w).Generation == 0:
		// No launch has finished formatting, so no launch may open the volume. The
		// operator has to order a new format.
		w.refusals++
		w.t.Logf("%s: refused: %s", f.name, why)
		if w.server.volume(w.w).State == store.VolumeNew {
			w.t.Fatalf("%s: a new volume is refused before its key was asked for:\n%s", f.name, out)
		}
		w.formatAgain()
		return
	case !opened && why != "" && f.message == "":
		w.t.Fatalf("%s: the volume is refused:\n%s", f.name, out)
	}
	if m := foundLine.FindStringSubmatch(out); m != nil {
		if found, _ := strconv.Atoi(m[1]); found < before {
			w.t.Fatalf("%s: %d rows are found, want %d that were durable:\n%s", f.name, found, before, out)
		}
	} else if opened && strings.Contains(out, "guest: closing") {
		w.t.Fatalf("%s: no rows were looked for:\n%s", f.name, out)
	}
	w.keep()
	w.t.Logf("%s: %s; %d rows are durable, the key server has it %s, generation %d", f.name, outcome(out), w.synced, w.server.volume(w.w).State, w.server.volume(w.w).Generation)
}

// formatAgain gives the operator's command that the volume's contents may be lost.
func (w *volumeRig) formatAgain() {
	w.t.Helper()
	if w.server.volume(w.w).State == store.VolumeOpen {
		w.server.free(w.w)
	}
	w.server.reset(w.w)
	w.step(fault{name: "formatted anew"})
}

func outcome(out string) string {
	if why := refusal(out); why != "" {
		return "refused: " + why
	}
	var last string
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, "rootvouch: ") || strings.HasPrefix(line, "guest: rows") || strings.HasPrefix(line, "guest: closing") {
			last = strings.TrimSpace(line)
		}
	}
	return "last line is " + strconv.Quote(last)
}

// keep keeps a copy of the present volume.
func (w *volumeRig) keep() {
	w.t.Helper()
	w.older = append(w.older, w.w.copy(w.t).path)
	if len(w.older) > 6 {
		os.Remove(w.older[0])
		w.older = w.older[1:]
	}
}

// offer gives the next launch an older state of the volume, and then puts the right
// state back. In every state of the key server, the older state must not be opened
// as the one that was closed last. If the operator has accepted the volume as it is, any state
// may be opened, and the launch must say that it does not know the freshness.
func (w *volumeRig) offer() {
	w.t.Helper()
	older := w.older[w.random.IntN(len(w.older))]
	sum, err := sumOf(older)
	now, err2 := sumOf(w.w.path)
	if err != nil || err2 != nil {
		w.t.Fatal(err, err2)
	}
	if sum == now || w.server.volume(w.w).Generation == 0 {
		return
	}
	if w.server.volume(w.w).State == store.VolumeOpen && w.policy.Writers == store.Exclusive {
		w.server.free(w.w)
	}
	v := w.server.volume(w.w)
	if w.server.asClosed(older, v.Digest) {
		return // the launch wrote nothing, so the volume is as it was closed
	}
	right := w.w.path
	stale := *w.w
	w.w.path = stale.copyOf(w.t, older)
	out := w.launch(fault{line: "rootvouch: volume: ", cut: true})
	w.w.path = right
	if strings.Contains(out, "is as it was closed") || strings.Contains(out, "is new") {
		w.t.Fatalf("an older state is opened as fresh, or formatted:\n%s", out)
	}
	if unknown := fmt.Sprintf("freshness unknown since generation %d", v.Generation); !v.Accepted && (v.State == store.VolumeClosed || w.policy.Unclean == store.UncleanRefuse) {
		if refusal(out) == "" {
			w.t.Fatalf("an older state is opened:\n%s", out)
		}
	} else if refusal(out) == "" && !strings.Contains(out, unknown) {
		w.t.Fatalf("an older state is opened without %q:\n%s", unknown, out)
	}
	w.stale++
}

// copyOf copies a file.
func (v *testVolume) copyOf(t *testing.T, path string) string {
	t.Helper()
	c := *v
	c.path = path
	return c.copy(t).path
}

// end closes the volume, and compares every sector with its tag.
func (w *volumeRig) end() {
	w.t.Helper()
	w.step(fault{name: "the end"})
	v := w.server.volume(w.w)
	if v.State != store.VolumeClosed || !w.server.asClosed(w.w.path, v.Digest) {
		w.t.Fatalf("at the end volume is %+v, want it closed, and as it is now", v)
	}
	w.verify(v.Digest)
	w.server.judge()
}

// verify reads all of the volume with its key.
func (w *volumeRig) verify(want pins.Digest) {
	w.t.Helper()
	file, err := os.Open(w.w.path)
	if err != nil {
		w.t.Fatal(err)
	}
	defer file.Close()
	layout, err := volume.LayoutOf(faultVolumeSize)
	if err != nil {
		w.t.Fatal(err)
	}
	none := func(done, size uint64) {}
	if got, err := volume.Digest(w.t.Context(), file, layout, none); err != nil || got != want {
		w.t.Errorf("digest is %s, %v, want %s", got, err, want)
	}
	bad, first, err := volume.Verify(w.t.Context(), file, layout, w.w.volumeKey(w.t), none)
	if err != nil || bad > 0 {
		w.t.Errorf("%d sectors do not match their tags, the first is %d: %v", bad, first, err)
	}
}

// volumeKey opens the volume's header.
func (v *testVolume) volumeKey(t *testing.T) []byte {
	t.Helper()
	header, err := volume.Header(v.key, v.header.DiskUUID)
	if err != nil {
		t.Fatal(err)
	}
	container, err := luks2.ParseAuthenticated(header)
	if err != nil {
		t.Fatal(err)
	}
	key, err := container.VolumeKey(v.key[:])
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// TestVMVolumeFaults cuts the power of VMs, and loses messages, at every step of a
// volume's life and at random moments within the steps. No durable row may be lost,
// no older state may be opened as fresh, and no volume may be formatted twice
// without the operator's command. make volumes runs every fault, make test a few.
// ROOTVOUCH_SEED sets the random moments.
func TestVMVolumeFaults(t *testing.T) {
	needs.Boot(t)
	b := volumeBench(t)
	all := os.Getenv("ROOTVOUCH_VM") == "all"
	strict := store.VolumePolicy{Writers: store.Exclusive, Unclean: store.UncleanRefuse}
	lax := store.VolumePolicy{Writers: store.Takeover, Unclean: store.UncleanAccept}

	t.Run("first boot", func(t *testing.T) {
		t.Parallel()
		needs.Matrix(t)
		for _, f := range firstFaults() {
			t.Run(f.name, func(t *testing.T) {
				t.Parallel()
				w := newVolumeRig(t, b, strict)
				w.step(f)
				w.end()
				w.report(1)
			})
		}
	})
	t.Run("first boot on a host that loses its power", func(t *testing.T) {
		t.Parallel()
		needs.Matrix(t)
		for _, f := range firstFaults() {
			if !strings.Contains(f.name, "formatting") && f.name != "cut after mount" && f.name != "cut after volume: /data" && f.name != "commit made and cut" {
				continue
			}
			t.Run(f.name, func(t *testing.T) {
				t.Parallel()
				w := newVolumeRig(t, b, strict)
				w.disk = disktest.Serve(t, w.w.path)
				w.step(f)
				w.end()
				w.report(1)
			})
		}
	})
	t.Run("host that loses its power", func(t *testing.T) {
		t.Parallel()
		w := newVolumeRig(t, b, lax)
		w.disk = disktest.Serve(t, w.w.path)
		var faults []fault
		for i, f := range laterFaults() {
			if all && i%3 == 0 && f.cut || f.name == "cut while writing 1" {
				faults = append(faults, f)
			}
		}
		w.step(fault{name: "the beginning"})
		for _, f := range faults {
			w.step(f)
		}
		w.end()
		w.report(len(faults))
	})
	for name, policy := range map[string]store.VolumePolicy{"exclusive": strict, "takeover": lax} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newVolumeRig(t, b, policy)
			var faults []fault
			for i, f := range laterFaults() {
				if all && i%2 == 0 == (policy == strict) || !all && policy == lax && f.name == "commit made and cut" {
					faults = append(faults, f)
				}
			}
			if len(faults) == 0 {
				needs.Matrix(t)
			}
			w.random.Shuffle(len(faults), func(i, j int) { faults[i], faults[j] = faults[j], faults[i] })
			w.step(fault{name: "the beginning"})
			for i, f := range faults {
				w.step(f)
				if all && i%3 == 2 {
					w.offer()
				}
			}
			w.end()
			w.report(len(faults))
		})
	}
}

func (w *volumeRig) report(faults int) {
	w.t.Logf("%d fault(s) in %d launches: %d power cuts, %d refusals, %d older states offered; %d rows durable at the end, every one found",
		faults, w.launches, w.cuts, w.refusals, w.stale, w.synced)
	if w.disk != nil {
		w.t.Logf("the host lost its power after each launch, and %d sectors that were not flushed", w.lost)
	}
}

// TestVolumeCreateKilled kills volume create at random moments. Every file with its
// final name must be whole, and the volume must be the last of the three files to
// get its name.
func TestVolumeCreateKilled(t *testing.T) {
	program := needs.Binary(t, "rootvouch")
	start := time.Now()
	create := func(dir string) *exec.Cmd {
		return childtest.Tied(exec.Command(program, "volume", "create", "--size", "16M", "--out", filepath.Join(dir, "data.img"),
			"--key-out", filepath.Join(dir, "data.key"), "--pins-out", filepath.Join(dir, "data.json")))
	}
	if out, err := create(t.TempDir()).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	whole := time.Since(start)
	var made, partly, nothing int
	kills := 15
	if os.Getenv("ROOTVOUCH_VM") == "all" {
		kills = 60
	}
	for i := range kills {
		dir := t.TempDir()
		cmd := create(dir)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(whole * time.Duration(i) * 6 / 5 / time.Duration(kills)) // a moment within its work
		cmd.Process.Kill()
		cmd.Wait()
		left, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		names := map[string]bool{}
		for _, e := range left {
			names[e.Name()] = true
		}
		switch {
		case names["data.img"]:
			made++
			if len(left) != 3 || !names["data.key"] || !names["data.json"] {
				t.Fatalf("kill %d left %v", i, left)
			}
			if out, err := exec.Command(program, "volume", "inspect", filepath.Join(dir, "data.img")).CombinedOutput(); err != nil {
				t.Fatalf("kill %d left a volume that is none: %v: %s", i, err, out)
			}
			again := filepath.Join(t.TempDir(), "again")
			uuid := regexp.MustCompile(`[0-9a-f-]{36}`).FindString(string(readFile(t, filepath.Join(dir, "data.json"))))
			if out, err := exec.Command(program, "volume", "create", "--size", "16M", "--key", filepath.Join(dir, "data.key"), "--uuid", uuid, "--out", again+".img", "--pins-out", again+".json").CombinedOutput(); err != nil {
				t.Fatalf("kill %d: %v: %s", i, err, out)
			}
			if !bytes.Equal(readFile(t, again+".img"), readFile(t, filepath.Join(dir, "data.img"))) {
				t.Fatalf("kill %d: key and volume do not belong together", i)
			}
		case len(left) == 0:
			nothing++
		default:
			partly++
			for name := range names {
				if data := readFile(t, filepath.Join(dir, name)); name == "data.key" && len(data) != 32 || name == "data.json" && !bytes.HasSuffix(data, []byte("}\n")) || name != "data.key" && name != "data.json" {
					t.Fatalf("kill %d left %s with %d bytes", i, name, len(data))
				}
			}
		}
	}
	t.Logf("%d kills: %d volumes were whole with key and pins, %d times key or pins alone, %d times nothing", kills, made, partly, nothing)
}
