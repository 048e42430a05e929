// Attacker is the init of a booted system. As root it asks for the disk's key a
// second time. It starts the same agent and fetchkey as PID 1, at the same paths,
// with fresh evidence of the same launch.
package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

const (
	jail   = "/jail" // has the /bin and /etc of the initramfs
	socket = "/run/spire/agent.sock"
)

func main() {
	if err := attack(); err != nil {
		say("got no key: %v", err)
	}
	time.Sleep(time.Second) // for the console
	syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF)
}

func say(format string, args ...any) {
	console, err := os.OpenFile("/dev/console", os.O_WRONLY, 0)
	if err != nil {
		return
	}
	defer console.Close()
	fmt.Fprintf(console, "attacker: "+format+"\n", args...)
}

func attack() error {
	say("the system is up")
	for _, dir := range []string{"proc", "sys", "dev", "run", "tmp"} {
		if err := os.MkdirAll(jail+"/"+dir, 0o755); err != nil {
			return err
		}
	}
	for _, dir := range []string{"/proc", "/sys", "/dev"} {
		if err := syscall.Mount(dir, jail+dir, "", syscall.MS_BIND|syscall.MS_REC, ""); err != nil {
			return fmt.Errorf("binding %s: %w", dir, err)
		}
	}
	disk, err := os.ReadFile(jail + "/etc/disk-uuid")
	if err != nil {
		return err
	}
	if err := syscall.Chroot(jail); err != nil {
		return err
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	if err := os.MkdirAll("/run/spire", 0o700); err != nil {
		return err
	}
	log, err := os.Create("/run/agent.log")
	if err != nil {
		return err
	}
	agent := exec.Command("/bin/spire-agent", "run", "-config", "/etc/agent.conf")
	agent.Stdout, agent.Stderr = log, log
	if err := agent.Start(); err != nil {
		return err
	}
	if err := serves(); err != nil {
		text, _ := os.ReadFile(log.Name())
		return fmt.Errorf("%w: %s", err, text)
	}
	say("the agent serves")
	return fetch(strings.TrimSpace(string(disk)))
}

// serves waits for the Workload API.
func serves() error {
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if conn, err := net.Dial("unix", socket); err == nil {
			return conn.Close()
		}
	}
	return fmt.Errorf("the agent does not serve")
}

func fetch(disk string) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	fetchkey := exec.Command("/bin/fetchkey", "-boot-config", "/etc/rootvouch/boot.json", "-disk-uuid", disk)
	fetchkey.ExtraFiles = []*os.File{w}
	said, err := fetchkey.CombinedOutput()
	w.Close()
	if err != nil {
		return fmt.Errorf("fetchkey: %v: %s", err, strings.TrimSpace(string(said)))
	}
	key := make([]byte, 1024)
	n, _ := r.Read(key)
	say("GOT THE KEY, %d bytes", n)
	return nil
}
