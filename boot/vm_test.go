package boot_test

import (
	"net/netip"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rootvouch/rootvouch/boot/bootconfig"
	"github.com/rootvouch/rootvouch/gate/program"
	"github.com/rootvouch/rootvouch/internal/needs"
	"github.com/rootvouch/rootvouch/kms/keyapi"
)

// TestVM boots the stock kernel with cmd/init, and stand-ins for the programs that
// it starts. Every case except the good ones must end with the power switch and one
// line with the reason, and must run nothing of the root filesystem.
func TestVM(t *testing.T) {
	needs.Boot(t)
	b := newBench(t)

	flip := func(offset uint64) func(*vm) {
		return func(v *vm) { v.flip(int64(offset)) }
	}
	payload, hashOffset := b.disk.pins.PayloadOffset, b.disk.pins.HashOffset
	agent := func(s string) func(*vm) { return func(v *vm) { v.set("agent", s) } }
	fetch := func(s string) func(*vm) { return func(v *vm) { v.set("fetchkey", s) } }
	release := func(f func(*keyapi.Released)) func(*vm) { return func(v *vm) { f(&v.release) } }
	config := func(f func(*bootconfig.Config)) func(*vm) { return func(v *vm) { f(&v.config) } }
	hasty := func(v *vm) { v.files["init"] = b.hasty }
	noHeaderPin := config(func(c *bootconfig.Config) { c.Disk.Header = nil })

	for _, c := range []struct {
		name string
		want string // regular expression for what follows "rootvouch: refused: "
		set  []func(*vm)
		// panics says that the kernel ends the VM; want is then a line before it.
		panics bool
	}{
		{"data byte", `verify: reading data block 100: input/output error: data block 100 is corrupt: it does not match the root hash$`,
			[]func(*vm){flip(payload + 100*4096 + 7)}, false},
		{"tree byte", `verify: reading data block [0-9]+: input/output error: metadata block [0-9]+ is corrupt: it does not match the root hash$`,
			[]func(*vm){flip(payload + hashOffset + 2*4096 + 50)}, false},
		{"superblock byte", `dm-verity: checking dm-verity superblock: it differs from the pins$`,
			[]func(*vm){flip(payload + hashOffset + 3)}, false},
		{"header byte", `header: looking for a disk whose first 1048576 bytes have SHA-256 [0-9a-f]{64}: got vda with [0-9a-f]{64}$`,
			[]func(*vm){flip(300 << 10), hasty}, false},
		{"other disk with the same UUID", `header: looking for a disk .*: got vda with `,
			[]func(*vm){func(v *vm) { v.diskPath = b.other.path }, hasty}, false},
		{"no disk", `header: looking for a disk .*: got no disk at all$`,
			[]func(*vm){func(v *vm) { v.diskPath = "" }, hasty}, false},
		{"short disk", `header: checking vda: size is [0-9]+ bytes, want at least [0-9]+$`,
			[]func(*vm){func(v *vm) { v.truncate(int64(payload + hashOffset)) }}, false},
		{"wrong key", `dm-crypt: opening vda: wrong key: `,
			[]func(*vm){release(func(r *keyapi.Released) { r.Key[0]++ })}, false},
		{"other header pin", `key: checking header pin of the release: luks2_header_sha256 is `,
			[]func(*vm){release(func(r *keyapi.Released) { r.Header.HeaderSHA256[0]++ })}, false},
		{"other header pin, none measured", `header: looking for a disk whose first `,
			[]func(*vm){release(func(r *keyapi.Released) { r.Header.HeaderSHA256[0]++ }), noHeaderPin, hasty}, false},
		{"other root hash", `verify: reading data block [0-9]+: input/output error: metadata block `,
			[]func(*vm){config(func(c *bootconfig.Config) { c.Disk.RootHash[0]++ })}, false},
		{"lazy, other root hash", `(?m)^rootvouch: verify: skipped: verification is lazy`,
			[]func(*vm){config(func(c *bootconfig.Config) { c.Disk.RootHash[0]++; c.Verification = "lazy" })}, true},
		{"more on the command line", `kernel: command line of the kernel \([0-9]+ bytes\) differs from the measured one \([0-9]+ bytes\) at byte [0-9]+: got " quiet", want ""$`,
			[]func(*vm){func(v *vm) { v.appended = " quiet" }}, false},
		{"less on the command line", `kernel: command line of the kernel .* at byte [0-9]+: got "", want " audit=0"$`,
			[]func(*vm){func(v *vm) {
				v.config.CommandLine += " audit=0"
				v.kernelLine = strings.TrimSuffix(v.config.CommandLine, " audit=0")
			}}, false},
		{"other salt", `dm-verity: checking dm-verity superblock: it differs from the pins$`,
			[]func(*vm){config(func(c *bootconfig.Config) { c.Disk.Salt[0]++ })}, false},
		{"no AES-NI", `start: checking processor 0: the host shows it without the feature "aes", want aes and rdrand$`,
			[]func(*vm){func(v *vm) { v.cpu += ",-aes" }}, false},
		{"no RDRAND", `start: checking processor 0: the host shows it without the feature "rdrand", want aes and rdrand$`,
			[]func(*vm){func(v *vm) { v.cpu += ",-rdrand" }}, false},
		{"fetchkey fails", `key: running fetchkey: release: the KMS answers 403: the record is disabled$`,
			[]func(*vm){fetch("refused")}, false},
		{"fetchkey is silent", `key: running fetchkey: got no reply in time$`,
			[]func(*vm){fetch("silent"), hasty}, false},
		{"reply of a failure", `key: running fetchkey: exit status 3$`,
			[]func(*vm){fetch("then failed")}, false},
		{"agent is down", `agent: running SPIRE agent: gave up after [2-9] starts: agent ended with exit status 1: Agent crashed: connection refused$`,
			[]func(*vm){agent("down"), hasty}, false},
		{"agent is silent", `agent: running SPIRE agent: gave up after 1 starts: agent did not serve the Workload API in time: Still trying: no route to host$`,
			[]func(*vm){agent("silent"), hasty}, false},
		{"agent is refused", `agent: running SPIRE agent: agent ended with exit status 1: Agent crashed: rpc error: code = PermissionDenied desc = measurement is not accepted$`,
			[]func(*vm){agent("refused")}, false},
		{"bare kernel, gate measured", `tables: looking for tables of the host: there is [a-z_]+, want nothing but `,
			[]func(*vm){config(func(c *bootconfig.Config) { c.Gate = program.ID().String() })}, false},
		{"another gate measured", `tables: checking the gate: the configuration names 9a9a`,
			[]func(*vm){config(func(c *bootconfig.Config) { c.Gate = strings.Repeat("9a", 32) })}, false},
		{"no boot.json", `config: reading boot configuration: `,
			[]func(*vm){func(v *vm) { v.raw = []byte{} }}, false},
		{"strange boot.json", `config: decoding boot configuration: `,
			[]func(*vm){func(v *vm) { v.raw = []byte("{}") }}, false},
		{"attestd fails", `switch: waiting for attestd: there is no sev-guest here$`,
			[]func(*vm){config(func(c *bootconfig.Config) { c.ReportDevice = bootconfig.ReportSEVGuest })}, false},
		{"no init in the root", `switch: looking for /sbin/init in the root filesystem: `,
			[]func(*vm){func(v *vm) { v.use(b.empty) }}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			v := b.vm(t)
			for _, set := range c.set {
				set(v)
			}
			if !c.panics {
				v.refused(c.want)
				return
			}
			out := v.bootTo("guest-reset") // the kernel was faster than PID 1, and prints nothing
			if strings.Contains(out, "rootvouch: refused: ") || strings.Contains(out, "guest:") || !regexp.MustCompile(c.want).MatchString(out) {
				t.Errorf("got a refusal or the root filesystem, or no line that matches %q:\n%s", c.want, out)
			}
		})
	}

	t.Run("good", func(t *testing.T) {
		t.Parallel()
		v := b.vm(t)
		v.attach(b.other)
		out := v.boot()
		for _, want := range b.wantGood() {
			if !regexp.MustCompile("(?m)^" + want).MatchString(out) {
				t.Errorf("console has no line that matches %q", want)
			}
		}
		t.Logf("console:\n%s", out)
		b.wantNothingLeft(t, out)
	})

	t.Run("good, the kernel of the backports in its packages", func(t *testing.T) {
		t.Parallel()
		packages, err := filepath.Glob(filepath.Join(needs.Part(t, "kernel-backports/packages"), "*.deb"))
		if err != nil {
			t.Fatal(err)
		}
		newer := *b
		newer.kernel = needs.Part(t, "kernel-backports/boot/vmlinuz-*")
		newer.base, newer.modules = b.newBase(t, packages...)
		v := newer.vm(t)
		v.attach(b.other)
		out := v.boot()
		for _, want := range append(b.wantGood(), `rootvouch: start: kernel 7\.`) {
			if !regexp.MustCompile("(?m)^" + want).MatchString(out) {
				t.Errorf("console has no line that matches %q", want)
			}
		}
		b.wantNothingLeft(t, out)
		if t.Failed() {
			t.Logf("console:\n%s", out)
		}
	})

	t.Run("UUID from the disk, second start of the agent, static network, lazy, quiet", func(t *testing.T) {
		t.Parallel()
		v := b.vm(t)
		noHeaderPin(v)
		v.set("agent", "second")
		v.config.Verification, v.config.Console = bootconfig.VerificationLazy, false
		v.config.Network = bootconfig.Network{
			Mode:        bootconfig.NetworkStatic,
			Address:     netip.MustParsePrefix("fec0::99/64"), // QEMU's own network
			Gateway:     netip.MustParseAddr("fec0::2"),
			Nameservers: []netip.Addr{netip.MustParseAddr("fec0::3")},
		}
		v.config.ClockFloor = time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)
		out := v.boot()
		if !strings.Contains(out, "guest: reached the root filesystem") {
			t.Errorf("the root filesystem was not reached:\n%s", out)
		}
		if regexp.MustCompile("(?m)^rootvouch: ").MatchString(out) {
			t.Errorf("the console is off, and has lines of PID 1:\n%s", out)
		}
		if !regexp.MustCompile(`table of rootvouch-root is ".* 2 panic_on_corruption panic_on_error"`).MatchString(out) {
			t.Error("a lazy table does not panic on corruption")
		}
		if !strings.Contains(out, `IPv6AcceptRA=no\nAddress=fec0::99/64\nGateway=fec0::2\nDNS=fec0::3\n`) {
			t.Error("the static network is not in the unit for the booted system")
		}
		// QEMU's router advertises fec0::/64, which makes an address of the MAC's.
		addresses := regexp.MustCompile(`guest: IPv6 addresses is "(.*)"`).FindStringSubmatch(out)
		if addresses == nil || !strings.Contains(addresses[1], "fec00000000000000000000000000099 ") || strings.Contains(addresses[1], "fec0000000000000505400") {
			t.Errorf("IPv6 addresses are %q, want the measured one and none that a router gave", addresses)
		}
		if !strings.Contains(out, "guest: time is 2100-01-01T00:00") {
			t.Error("the clock was not set to its floor")
		}
	})

	hashTree := b.waiting.pins.PayloadOffset + b.waiting.pins.HashOffset + 2*4096 // behind the superblock and the top of the tree
	for name, c := range map[string]struct {
		flip  uint64 // byte of the disk, or 0
		block string // that dm-verity names, or ""
		panic string
	}{
		"corruption after the switch":             {b.waiting.pins.PayloadOffset + 100*4096, "data block 100", "dm-verity device corrupted"},
		"corruption of the tree after the switch": {hashTree, "metadata block", "dm-verity device corrupted"},
		"failing reads after the switch":          {0, "", "dm-verity device has I/O error"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := b.vm(t)
			v.use(b.waiting)
			v.own()
			v.config.CommandLine += " guest.verbose" // so that the kernel says which panic it is
			if c.flip == 0 {
				v.config.CommandLine += " guest.unplug"
			} else {
				v.onLine("guest: waiting for corruption", func() { v.flip(int64(c.flip)) })
			}
			out := v.bootTo("guest-reset")
			if !strings.Contains(out, "guest: waiting for corruption") || !strings.Contains(out, "Kernel panic - not syncing: "+c.panic) ||
				!strings.Contains(out, c.block) || strings.Contains(out, "read the whole disk again") {
				t.Errorf("got no panic because of %q:\n%s", c.panic, out)
			}
		})
	}
}

// attach adds a disk of the host's behind the VM's own, and another whose driver is
// built into the kernel.
func (v *vm) attach(d testDisk) {
	v.devices = append(v.devices, "-drive", "file="+d.path+",format=raw,if=none,id=host,readonly=on", "-device", "virtio-blk-pci,drive=host,addr=0x1a",
		"-blockdev", "null-co,size=4194304,node-name=nvme", "-device", "nvme,drive=nvme,serial=host")
}

// wantGood lists what a good boot shows.
func (b *bench) wantGood() []string {
	quoted := func(s string) string { return regexp.QuoteMeta(s) }
	want := []string{
		`rootvouch: start: kernel [^ ]+, 2 CPUs, .*; emulated: NOT CONFIDENTIAL \([0-9]+ ms\)`,
		`rootvouch: verify: every block matches, `,
		`rootvouch: switch: to /sbin/init \([0-9]+ ms\)`,
		`guest: reached the root filesystem`,
		`guest: proof is "the right root"`,
		`guest: PID 1, args \["/sbin/init"\], stdout is /dev/console`,
		`guest: mount rootvouch on / type overlay`,
		`guest: mount configfs on /sys/kernel/config type configfs`,
		`guest: boot log has disk ` + b.disk.pins.DiskUUID.String() + `, root hash ` + b.disk.pins.RootHash.String() +
			`, steps start,config,kernel,tables,modules,clock,network,agent,key,header,dm-crypt,dm-verity,verify,mount \(<nil>\)`,
		`guest: table of rootvouch-crypt is "aes-xts-plain64 :64:logon:rootvouch:[0-9a-f-]{36} 0 [0-9:]+ 2048 1 sector_size:4096"`,
		`guest: table of rootvouch-root is ".* ` + b.disk.pins.RootHash.String() + ` .* 2 panic_on_corruption panic_on_error"`,
		`guest: environment is ` + quoted(`["HOME=/" "TERM=linux" "CREDENTIALS_DIRECTORY=/run/credentials/@system" "SYSTEMD_EFI_OPTIONS="], /run/credentials/@system holds 0 credentials (<nil>)`),
		`guest: mount tmpfs on /run type tmpfs, [^ ]*size=[0-9]+k,nr_inodes=819200,`,
		`guest: a key is left in a keyring: false`,
		`guest: process @attestd`,
		`guest: attestd: args ` + quoted(`["@attestd" "-listen" ":8444" "-boot-log" "/run/rootvouch/bootlog.json" "-device" "virtio-port"]`) +
			` configfs true console true log true initramfs gone true own session true`,
		`guest: resolv.conf is a link to /run/rootvouch/resolv.conf`,
		`guest: network unit is ".*DHCP=ipv4`,
		`guest: writing gives <nil>`,
		`guest: panic_on_oops is "1`,
		`guest: printk is "0\\t`,
		`guest: modules_disabled is "1`,
		`guest: kexec_load_disabled is "1`,
		`guest: lockdown is "none \[integrity\]`,
		`guest: sysrq is "0`,
		`guest: unprivileged_bpf_disabled is "[12]`,
		`guest: hibernation is "\[disabled\]`,
		`guest: loading a module gives operation not permitted`,
		`guest: accept_ra is "0`,
		`guest: machine ID is "[0-9a-f]{12}4[0-9a-f]{3}[89ab][0-9a-f]{15}\\n"`,
		`guest: systemd-fstab-generator is a link to /dev/null`,
		`guest: serial-getty@.service is a link to /dev/null`,
		`guest: disks are vda$`,
		`rootvouch: hand-over: no further modules and devices, 1 other disks taken away; boot log`,
	}
	for _, step := range []string{"config", "kernel", "tables", "modules", "clock", "network", "agent", "key", "header", "dm-crypt", "dm-verity", "mount", "hand-over"} {
		want = append(want, `rootvouch: `+step+`: .* \([0-9]+ ms\)`)
	}
	return want
}

// wantNothingLeft checks that a good boot left no keys, processes or memory behind.
func (b *bench) wantNothingLeft(t *testing.T, out string) {
	for line := range strings.Lines(out) {
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "guest: process "); ok && name != "@attestd" && name != "/sbin/init" {
			t.Errorf("process %q survived the switch", name)
		}
		if strings.HasPrefix(line, "guest: IPv6 addresses") && strings.Contains(line, "fec0") {
			t.Errorf("a router gave an address: %s", line)
		}
		if strings.HasPrefix(line, "guest: mount") && regexp.MustCompile(`on /(lower|upper|newroot)`).MatchString(line) {
			t.Errorf("mount is still in sight: %s", line)
		}
	}
	size := regexp.MustCompile(`guest: shmem is (\d+) KiB`).FindStringSubmatch(out)
	if size == nil {
		t.Fatal("console does not say what tmpfs holds")
	}
	// attestd's own file stays as long as it runs, and little else.
	if kib, _ := strconv.Atoi(size[1]); kib > (b.guestSize>>10)+2048 {
		t.Errorf("tmpfs holds %d KiB, want %d for attestd and not much more", kib, b.guestSize>>10)
	}
}
