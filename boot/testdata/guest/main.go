// Guest takes the place of the programs that PID 1 starts, and of the init of the
// root filesystem. It is one program under several names. The files below /etc/case
// of the initramfs say what each name does in a case.
package main

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/rootvouch/rootvouch/boot/bootconfig"
	"golang.org/x/sys/unix"
)

func main() {
	switch name := strings.TrimPrefix(filepath.Base(os.Args[0]), "@"); name {
	case "spire-agent":
		agent()
	case "fetchkey":
		fetchkey()
	case "attestd":
		attestd()
	case "init":
		rootInit()
	default:
		fail("guest: got the name %q", name)
	}
}

func fail(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
	os.Exit(1)
}

// caseText returns the case's text for a program, or "".
func caseText(name string) string {
	data, _ := os.ReadFile("/etc/case/" + name)
	return string(data)
}

func forever() { time.Sleep(time.Hour) }

// agent checks the files that PID 1 wrote for it, and serves a socket that answers
// nothing.
func agent() {
	if want := []string{"run", "-config", bootconfig.AgentConfigPath}; strings.Join(os.Args[1:], " ") != strings.Join(want, " ") {
		fail("arguments are %q, want %q", os.Args[1:], want)
	}
	for _, path := range []string{bootconfig.AgentConfigPath, bootconfig.AgentDataDir + "/trust_root.pem", "/etc/resolv.conf"} {
		if data, err := os.ReadFile(path); err != nil || len(data) == 0 {
			fail("reading %s: %d bytes, %v", path, len(data), err)
		}
	}
	say := func(msg, err string) {
		line, _ := json.Marshal(map[string]string{"level": "error", "msg": msg, "error": err})
		fmt.Println(string(line))
	}
	switch caseText("agent") {
	case "down":
		say("Agent crashed", "connection refused")
		os.Exit(1)
	case "refused":
		say("Agent crashed", "rpc error: code = PermissionDenied desc = measurement is not accepted")
		os.Exit(1)
	case "second":
		const mark = "/tmp/started"
		if _, err := os.Stat(mark); err != nil {
			os.WriteFile(mark, nil, 0o600)
			say("Agent crashed", "connection refused")
			os.Exit(1)
		}
	case "silent":
		say("Still trying", "no route to host")
		forever()
	}
	if _, err := net.Listen("unix", bootconfig.AgentSocketPath); err != nil {
		fail("%v", err)
	}
	forever()
}

// fetchkey writes the case's reply to PID 1.
func fetchkey() {
	if len(os.Args) == 7 && os.Args[5] == "-commit" {
		commit()
		return
	}
	if want := []string{"-boot-config", bootconfig.Path, "-disk-uuid", caseText("uuid")}; isOfVolume() {
		volumeKey()
		return
	} else if strings.Join(os.Args[1:], " ") != strings.Join(want, " ") {
		fail("fetchkey: config: arguments are %q, want %q", os.Args[1:], want)
	}
	if _, err := net.Dial("unix", bootconfig.AgentSocketPath); err != nil {
		fail("fetchkey: identity: %v", err)
	}
	reply, err := os.ReadFile("/etc/case/release")
	if err != nil {
		fail("fetchkey: case: %v", err)
	}
	pipe := os.NewFile(3, "pipe")
	switch caseText("fetchkey") {
	case "refused":
		fail("fetchkey: release: the KMS answers 403: the record is disabled")
	case "silent":
		forever()
	case "half":
		pipe.Write(reply[:len(reply)/2])
		return
	case "much":
		for err == nil {
			_, err = pipe.Write(reply)
		}
		return
	case "then failed":
		pipe.Write(reply)
		os.Exit(3)
	}
	pipe.Write(reply)
}

// isOfVolume reports whether fetchkey was asked for the key of one of the case's
// volumes.
func isOfVolume() bool {
	if len(os.Args) != 5 || os.Args[4] == caseText("uuid") {
		return false
	}
	_, _, ok := keyServer()
	return ok || caseText("release-"+os.Args[4]) != ""
}

// peakOfInit is the most memory that the present program of PID 1 has held, in KiB.
func peakOfInit() string {
	data, _ := os.ReadFile("/proc/1/status")
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			return strings.Fields(rest)[0]
		}
	}
	return "0"
}

// attestd answers on its port with its view of the booted system.
func attestd() {
	peak := peakOfInit() // of the boot: PID 1 executes another program soon
	if device := os.Args[6]; device != bootconfig.ReportVirtioPort {
		fail("attestd: there is no %s here", device)
	}
	listener, err := net.Listen("tcp", os.Args[2])
	if err != nil {
		fail("attestd: %v", err)
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			fail("attestd: %v", err)
		}
		_, configfs := os.Stat("/sys/kernel/config")
		_, console := os.Stat("/dev/console")
		_, log := os.Stat(os.Args[4])
		_, boot := os.Stat(bootconfig.Path)
		session, _ := unix.Getsid(0)
		fmt.Fprintf(conn, "args %q configfs %v console %v log %v initramfs gone %v own session %v, boot peaked at %s KiB",
			os.Args, configfs == nil, console == nil, log == nil, os.IsNotExist(boot), session == os.Getpid(), peak)
		conn.Close()
	}
}
