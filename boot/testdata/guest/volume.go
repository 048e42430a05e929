package main

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/rootvouch/rootvouch/boot/bootconfig"
	"github.com/rootvouch/rootvouch/dm"
	"golang.org/x/sys/unix"
)

// volumeKey writes the case's reply for a volume.
func volumeKey() {
	if _, err := os.Stat(bootconfig.AgentSocketPath); err != nil {
		fail("fetchkey: identity: %v", err)
	}
	if address, launch, ok := keyServer(); ok {
		askForVolume(address, launch, os.Args[4])
		return
	}
	os.NewFile(3, "pipe").Write([]byte(caseText("release-" + os.Args[4])))
}

// commit sends the commit to the case's key server. If the case has none, it prints
// the commit on the console.
func commit() {
	if address, launch, ok := keyServer(); ok {
		sendCommit(address, launch, os.Args[4], os.Args[6])
		return
	}
	console, err := os.OpenFile("/dev/console", os.O_WRONLY, 0)
	if err != nil {
		fail("fetchkey: %v", err)
	}
	fmt.Fprintf(console, "guest: close peaked at %s KiB\nguest: commit %s %s\n", peakOfInit(), os.Args[4], os.Args[6])
	unix.IoctlSetInt(int(console.Fd()), unix.TCSBRK, 1)
}

// onVolumes does what the words of the command line say, in their order:
// guest.vol:VERB:PATH[:TEXT].
func onVolumes() {
	line, _ := os.ReadFile("/proc/cmdline")
	for _, word := range strings.Fields(string(line)) {
		rest, ok := strings.CutPrefix(word, "guest.vol:")
		if !ok {
			continue
		}
		args := append(strings.Split(rest, ":"), "", "")
		onVolume(args[0], args[1], args[2])
	}
}

func onVolume(verb, path, text string) {
	switch verb {
	case "write":
		file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
		if err == nil {
			_, err = file.WriteString(strings.Repeat(text, 4096))
		}
		if err == nil {
			err = file.Sync()
		}
		say("wrote %s: %v", path, err)
	case "read":
		data, err := os.ReadFile(path)
		say("%s has %d bytes, %.8q (%v)", path, len(data), data, err)
	case "rows":
		rows(path, text)
	case "throughput":
		throughput(path, text)
	case "memory":
		memory(path, text)
	case "hold":
		hold()
	case "close":
		say("closing")
		unix.IoctlSetInt(1, unix.TCSBRK, 1)
		closeLikeSystemd()
	case "crash":
		unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF) // without closing the volume
	case "database":
		database(path)
	case "tables":
		control, err := dm.Open()
		if err != nil {
			say("device-mapper: %v", err)
			return
		}
		for _, name := range []string{"rootvouch-tags-" + path, "rootvouch-volume-" + path} {
			d, err := control.Find(name)
			if err != nil {
				say("%s: %v", name, err)
				continue
			}
			table, err := d.Table()
			say("table of %s is %q (%v)", name, table, err)
			status, err := d.Status()
			say("status of %s is %q (%v)", name, status, err)
		}
	case "desk":
		desk(path)
	default:
		say("no verb %q", verb)
	}
	unix.IoctlSetInt(1, unix.TCSBRK, 1)
}

// rowSize is the size of a row in bytes. A row takes several sectors.
const rowSize = 10_000

// row returns the contents of the n-th row.
func row(n int) []byte {
	unit := fmt.Sprintf("row %d.", n)
	return []byte(strings.Repeat(unit, rowSize/len(unit)+1)[:rowSize])
}

// rows compares the files of a directory, one row each, with the rows that were
// written there. Then it writes count more, and makes each durable before it prints
// it.
func rows(dir, count string) {
	file := func(n int) string { return filepath.Join(dir, strconv.Itoa(n)) }
	if err := os.MkdirAll(dir, 0o700); err != nil {
		say("rows: %v", err)
		return
	}
	next := 0
	for ; ; next++ {
		data, err := os.ReadFile(file(next))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			say("rows: reading: %v", err)
		}
		if !bytes.Equal(data, row(next)) {
			break
		}
	}
	say("rows: found %d", next)
	more, _ := strconv.Atoi(count)
	for end := next + more; next < end; next++ {
		err := writeDurably(file(next), row(next))
		if err == nil {
			err = syncDirectory(dir)
		}
		if err != nil {
			say("rows: writing: %v", err)
			return
		}
		say("rows: synced %d", next+1)
		unix.IoctlSetInt(1, unix.TCSBRK, 1)
	}
}

func writeDurably(path string, data []byte) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := file.Write(data); err != nil {
		return err
	}
	return file.Sync()
}

func syncDirectory(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// database checks a SQLite database, prints how many rows it has, and then commits
// one row after the other until the power is cut.
func database(path string) {
	sqlite := func(sql string) string {
		// With a lower setting, SQLite does not make the end of a transaction
		// durable: the removal of its journal from the directory (PRAGMA
		// synchronous).
		cmd := exec.Command("/usr/bin/sqlite3", path, "PRAGMA synchronous=EXTRA; "+sql)
		cmd.Env = []string{"HOME=/"}
		out, err := cmd.CombinedOutput()
		if err != nil {
			say("database: %q gives %v: %s", sql, err, strings.TrimSpace(string(out)))
			time.Sleep(time.Hour)
		}
		return strings.TrimSpace(string(out))
	}
	sqlite("CREATE TABLE IF NOT EXISTS rows(n INTEGER PRIMARY KEY, filler BLOB)")
	say("database: integrity_check is %q, rows are %s", sqlite("PRAGMA integrity_check"), sqlite("SELECT count(*) FROM rows"))
	for {
		sqlite("INSERT INTO rows(filler) VALUES (randomblob(20000))")
		say("database: committed %s", sqlite("SELECT count(*) FROM rows"))
	}
}

// desk opens a volume as its owner would at a desk, with the key and cryptsetup.
func desk(key string) {
	secret, err := hex.DecodeString(key)
	if err == nil {
		err = os.WriteFile("/tmp/key", secret, 0o600)
	}
	if err == nil {
		err = os.MkdirAll("/desk", 0o700)
	}
	if err != nil {
		say("desk: %v", err)
		return
	}
	for _, disk := range []string{"/dev/vda", "/dev/vdb", "/dev/vdc"} {
		cmd := exec.Command("/usr/sbin/cryptsetup", "open", "--batch-mode", "--key-file", "/tmp/key", disk, "desk")
		cmd.Env = []string{"DM_DISABLE_UDEV=1", "PATH=/usr/sbin"}
		if out, err := cmd.CombinedOutput(); err != nil {
			say("cryptsetup does not open %s: %v: %s", disk, err, strings.Join(strings.Fields(string(out)), " "))
			continue
		}
		if err := unix.Mount("/dev/mapper/desk", "/desk", "ext4", unix.MS_RDONLY, ""); err != nil {
			say("cryptsetup opened it: %v", err)
			return
		}
		data, err := os.ReadFile("/desk/proof")
		say("cryptsetup opened it: /desk/proof has %d bytes, %.8q (%v)", len(data), data, err)
		return
	}
}

// closeLikeSystemd changes the root to the directory that PID 1 has left, and
// executes the program there, as systemd's shutdown does.
func closeLikeSystemd() {
	root := bootconfig.CloseRoot
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"bind", func() error { return unix.Mount(root, root, "", unix.MS_BIND, "") }},
		{"dev", func() error { return unix.Mount("/dev", root+"/dev", "", unix.MS_BIND|unix.MS_REC, "") }},
		{"proc", func() error { return unix.Mount("/proc", root+"/proc", "", unix.MS_BIND|unix.MS_REC, "") }},
		{"sys", func() error { return unix.Mount("/sys", root+"/sys", "", unix.MS_BIND|unix.MS_REC, "") }},
		{"pivot", func() error { return unix.PivotRoot(root, root+"/oldroot") }},
		{"chdir", func() error { return unix.Chdir("/") }},
		{"exec", func() error { return unix.Exec("/shutdown", []string{"/shutdown", "poweroff"}, nil) }},
	} {
		if err := step.do(); err != nil {
			say("closing like systemd: %s: %v", step.what, err)
			return
		}
	}
}
