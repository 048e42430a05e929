package adminapi

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rootvouch/rootvouch/pins"
)

const stranger = 65534 // nobody

// listenAs makes a unix socket that another user serves. Only root can.
func listenAs(t *testing.T, path string, uid int) net.Listener {
	t.Helper()
	type result struct {
		l   net.Listener
		err error
	}
	made := make(chan result)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		// The package's Setresuid would change all threads; the raw call changes this one.
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uintptr(uid), ^uintptr(0)); errno != 0 {
			made <- result{nil, errno}
			return
		}
		l, err := net.Listen("unix", path)
		made <- result{l, err}
	}()
	r := <-made
	if r.err != nil {
		t.Fatal(r.err)
	}
	t.Cleanup(func() { r.l.Close() })
	return r.l
}

// TestServerOfAnotherUser wants a socket that somebody else serves to get no byte
// of a key, unless that user was named.
func TestServerOfAnotherUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: only root can serve a socket as another user")
	}
	dir, err := os.MkdirTemp("", "kms") // short: a socket's path has 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "s")
	l := listenAs(t, path, stranger)
	read := make(chan int, 2)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.SetReadDeadline(time.Now().Add(5 * time.Second))
			n, _ := c.Read(make([]byte, 1024))
			read <- n
			c.Close()
		}
	}()
	put := Put{SPIFFEID: "spiffe://example.org/vm", Evidence: "not required"}
	put.DiskUUID = pins.UUID{1}
	_, err = NewClient(path).Put(t.Context(), put, make([]byte, 32))
	if refused, ok := errors.AsType[*PeerError](err); !ok || refused.UID != stranger {
		t.Errorf("got error %v, want a PeerError with user ID %d", err, stranger)
	}
	if n := <-read; n != 0 {
		t.Errorf("a stranger's server got %d bytes", n)
	}
	_, err = NewClient(path, stranger).Put(t.Context(), put, make([]byte, 32))
	if _, refused := errors.AsType[*PeerError](err); refused || err == nil {
		t.Errorf("user named: got error %v, want the server's", err)
	}
	if n := <-read; n == 0 {
		t.Error("the server of the user that was named got nothing")
	}
}
