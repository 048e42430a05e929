package platform

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rootvouch/rootvouch/test/childtest"
)

// orphanage is the environment variable that makes the test binary a launcher,
// which the test then kills.
const orphanage = "ROOTVOUCH_TEST_LAUNCHER"

func TestMain(m *testing.M) {
	if os.Getenv(orphanage) == "" {
		os.Exit(m.Run())
	}
	p, err := startProcess([]string{"sleep", "600"}, os.Stderr, nil)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(p.cmd.Process.Pid)
	<-p.done
}

// QEMU ends with its launcher, even if the launcher is killed.
func TestProcessDoesNotOutliveUs(t *testing.T) {
	launcher := childtest.Tied(exec.Command(os.Args[0]))
	launcher.Env = append(os.Environ(), orphanage+"=1")
	out, err := launcher.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := launcher.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(line)
	}
	if err := syscall.Kill(pid, 0); err != nil {
		t.Fatalf("process %d does not run: %v", pid, err)
	}
	launcher.Process.Kill()
	launcher.Wait()
	for range 100 {
		if gone(pid) {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	syscall.Kill(pid, syscall.SIGKILL)
	t.Errorf("process %d outlived its launcher", pid)
}

// gone reports whether a process has ended, reaped or not.
func gone(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || bytes.Contains(stat, []byte(") Z "))
}

func TestProcessEnds(t *testing.T) {
	for name, script := range map[string]string{
		"at SIGTERM": "echo ready; sleep 600 & wait",
		"at SIGKILL": "trap '' TERM; echo ready; while :; do sleep 1; done",
		"by itself":  "echo ready",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			p, err := startProcess([]string{"sh", "-c", script}, w, nil)
			w.Close()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(r, make([]byte, len("ready\n"))); err != nil {
				t.Fatal(err)
			}
			p.end()
			if !gone(p.cmd.Process.Pid) {
				t.Error("it still runs")
			}
			syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL) // what the shell left
		})
	}
}

func TestStartProcessRefuses(t *testing.T) {
	if _, err := startProcess([]string{"/nowhere/qemu"}, os.Stderr, nil); err == nil {
		t.Error("a program that is not there was started")
	}
}

func TestMemoryIsSealed(t *testing.T) {
	data := []byte("the bytes that were measured")
	f, err := memory("test", data)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	path := fmt.Sprintf("/proc/self/fd/%d", f.Fd())
	if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, data) {
		t.Errorf("got %q, %v", got, err)
	}
	if w, err := os.OpenFile(path, os.O_WRONLY, 0); err == nil {
		defer w.Close()
		if _, err := w.Write([]byte("x")); err == nil {
			t.Error("it could be written")
		}
	}
}

func TestTail(t *testing.T) {
	var log tail
	fmt.Fprintf(&log, "%s\n", strings.Repeat("x", maxTail))
	fmt.Fprint(&log, "qemu: warning: TCG doesn't support requested feature: CPUID\nqemu: no \x1b[1mdisk\n")
	if got := log.said(); !strings.HasSuffix(got, "x; qemu: no disk") || len(got) > maxTail {
		t.Errorf("said %d bytes, the last are %q", len(got), got[len(got)-20:])
	}
}
