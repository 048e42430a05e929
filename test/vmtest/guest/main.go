// Guest is PID 1 of a VM that tests the launcher. It prints that it runs, asks for
// evidence, and ends the VM in the way that the command line names.
package main

import (
	"encoding/base64"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rootvouch/rootvouch/snp/snpdev"
)

func main() {
	fmt.Println("guest: hello from PID 1")
	for _, m := range []struct{ kind, at string }{{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}} {
		if err := os.MkdirAll(m.at, 0o755); err != nil {
			fmt.Println("guest: error:", err)
		}
		if err := unix.Mount(m.kind, m.at, m.kind, 0, ""); err != nil {
			fmt.Println("guest: error:", err)
		}
	}
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		fmt.Println("guest: error:", err)
	}
	switch words := string(line); {
	case strings.Contains(words, "guest=panic"):
		os.Exit(1) // the kernel panics when PID 1 ends
	case strings.Contains(words, "guest=hang"):
		for {
			time.Sleep(time.Hour)
		}
	case strings.Contains(words, "guest=report"):
		report()
	case strings.Contains(words, "guest=machine"):
		machine()
	case strings.Contains(words, "guest=power"):
		power()
	}
	interfaces, err := net.Interfaces()
	fmt.Println("guest: interfaces:", len(interfaces), err)
	fmt.Println("guest: off")
	fmt.Println("guest: error:", unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF))
}

// report asks for several reports at once, and prints the last evidence.
func report() {
	device, err := snpdev.Open(snpdev.VirtioPort)
	if err != nil {
		fmt.Println("guest: error:", err)
		return
	}
	const askers = 4
	results := make(chan string, askers)
	for i := range askers {
		go func() {
			e, err := device.Evidence([64]byte{byte(i + 1)})
			if err != nil {
				results <- fmt.Sprint("error: ", err)
				return
			}
			data, err := e.Encode()
			if err != nil {
				results <- fmt.Sprint("error: ", err)
				return
			}
			results <- fmt.Sprintf("evidence %d: %s", i+1, base64.StdEncoding.EncodeToString(data))
		}()
	}
	for range askers {
		long(<-results)
	}
}

// long prints text in pieces, because the launcher reads lines of bounded length.
func long(text string) {
	const piece = 1000
	for len(text) > piece {
		fmt.Println("guest: +", text[:piece])
		text = text[piece:]
	}
	fmt.Println("guest: .", text)
}
