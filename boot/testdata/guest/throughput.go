package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"github.com/rootvouch/rootvouch/dm"
	"golang.org/x/sys/unix"
)

const (
	benchSize   = 48 << 20 // bytes of the file
	benchPiece  = 1 << 20
	benchSyncs  = 200 // writes of 4 KiB, each durable before the next
	benchRounds = 3
)

// throughput measures a filesystem in turn on a spare disk, on plain dm-crypt over
// that disk, and on the volume.
func throughput(dir, sectors string) {
	disk := diskOf(sectors)
	if disk == "" {
		say("throughput: no disk has %s sectors", sectors)
		return
	}
	if err := os.MkdirAll("/spare", 0o700); err != nil {
		say("throughput: %v", err)
		return
	}
	for range benchRounds {
		on(disk, "disk")
		const mapped = "/dev/mapper/spare"
		if !run("cryptsetup", "open", "--batch-mode", "--type", "plain", "--cipher", "aes-xts-plain64", "--key-size", "512", "--sector-size", "4096", "--key-file", "/proc/self/exe", "--keyfile-size", "64", disk, "spare") {
			return
		}
		on(mapped, "dm-crypt")
		if !run("cryptsetup", "close", "spare") {
			return
		}
		measure(filepath.Join(dir, "bench"), "volume")
	}
}

// memory takes an open volume away, and says how much memory the kernel then has more.
func memory(dir, uuid string) {
	before := available()
	if err := unix.Unmount(dir, 0); err != nil {
		say("memory: unmounting: %v", err)
		return
	}
	control, err := dm.Open()
	if err != nil {
		say("memory: %v", err)
		return
	}
	for _, name := range []string{"rootvouch-volume-" + uuid, "rootvouch-tags-" + uuid} {
		device, err := control.Find(name)
		if err == nil {
			err = device.Remove()
		}
		if err != nil {
			say("memory: %s: %v", name, err)
			return
		}
	}
	say("memory: the open volume took %d KiB", available()-before)
}

// available is the kernel's MemAvailable in KiB, when what it can forget is forgotten.
func available() (kib int) {
	unix.Sync()
	os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0)
	data, _ := os.ReadFile("/proc/meminfo")
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "MemAvailable:"); ok {
			kib, _ = strconv.Atoi(strings.Fields(rest)[0])
		}
	}
	return kib
}

// diskOf finds a disk by its size.
func diskOf(sectors string) string {
	all, _ := filepath.Glob("/sys/class/block/vd?/size")
	for _, path := range all {
		if data, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(data)) == sectors {
			return "/dev/" + filepath.Base(filepath.Dir(path))
		}
	}
	return ""
}

func run(program string, args ...string) bool {
	cmd := exec.Command("/usr/sbin/"+program, args...)
	cmd.Env = []string{"DM_DISABLE_UDEV=1", "PATH=/usr/sbin"}
	if out, err := cmd.CombinedOutput(); err != nil {
		say("throughput: %s: %v: %s", program, err, strings.Join(strings.Fields(string(out)), " "))
		return false
	}
	return true
}

// on measures a filesystem on a device.
func on(device, what string) {
	if !run("mkfs.ext4", "-q", "-F", device) {
		return
	}
	if err := unix.Mount(device, "/spare", "ext4", 0, ""); err != nil {
		say("throughput: mounting: %v", err)
		return
	}
	measure("/spare/bench", what)
	if err := unix.Unmount("/spare", 0); err != nil {
		say("throughput: unmounting: %v", err)
	}
}

// measure writes a file without the page cache, reads it, and writes single blocks
// of it.
func measure(path, what string) {
	buf := aligned(benchPiece)
	for i := range buf {
		buf[i] = byte(i * 7)
	}
	if err := timed(path, what, buf); err != nil {
		say("throughput: %s: %v", what, err)
	}
	os.Remove(path)
	unix.IoctlSetInt(1, unix.TCSBRK, 1)
}

func timed(path, what string, buf []byte) error {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_DIRECT, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	start := time.Now()
	for at := int64(0); at < benchSize; at += benchPiece {
		if _, err := file.WriteAt(buf, at); err != nil {
			return err
		}
	}
	if err := file.Sync(); err != nil {
		return err
	}
	written := time.Since(start)
	start = time.Now()
	for at := int64(0); at < benchSize; at += benchPiece {
		if _, err := file.ReadAt(buf, at); err != nil {
			return err
		}
	}
	read := time.Since(start)
	start = time.Now()
	for range benchSyncs {
		if _, err := file.WriteAt(buf[:4096], rand.Int64N(benchSize/4096)*4096); err != nil {
			return err
		}
		if err := unix.Fdatasync(int(file.Fd())); err != nil {
			return err
		}
	}
	synced := time.Since(start)
	rate := func(d time.Duration) string {
		return strconv.FormatFloat(benchSize/1e6/d.Seconds(), 'f', 1, 64)
	}
	say("throughput: %s write %s MB/s read %s MB/s sync %s/s", what, rate(written), rate(read), fmt.Sprintf("%.1f", benchSyncs/synced.Seconds()))
	return nil
}

// aligned returns memory that is aligned for O_DIRECT.
func aligned(size int) []byte {
	b := make([]byte, size+4096)
	skip := 4096 - int(uintptr(unsafe.Pointer(&b[0]))%4096)
	return b[skip : skip+size]
}
