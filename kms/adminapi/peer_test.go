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
// of a key, unless that user was named. The kernel's answer is forged, since only
// root can serve a socket as another user.
func TestServerOfAnotherUser(t *testing.T) {
	path := filepath.Join(shortDir(t), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	tryStranger(t, path, l, func(conn net.Conn) (unix.Ucred, error) {
		cred, err := Peer(conn)
		cred.Uid = stranger
		return cred, err
	})
}

// TestKernelNamesServer does the same with a socket that another user truly
// serves.
func TestKernelNamesServer(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: only root can serve a socket as another user")
	}
	path := filepath.Join(shortDir(t), "s")
	tryStranger(t, path, listenAs(t, path, stranger), Peer)
}

// shortDir is a directory for sockets, whose paths have 107 bytes at most. Any
// user may write to it.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "kms")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return dir
}

// tryStranger sends a key to a stranger's server, first without naming it.
func tryStranger(t *testing.T, path string, l net.Listener, peer func(net.Conn) (unix.Ucred, error)) {
	t.Helper()
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
	put := Put{SPIFFEID: "spiffe://example.org/vm", Evidence: "not-required"}
	put.DiskUUID = pins.UUID{1}
	_, err := newClient(path, peer, nil).Put(t.Context(), put, make([]byte, 32))
	if refused, ok := errors.AsType[*PeerError](err); !ok || refused.UID != stranger {
		t.Errorf("got error %v, want a PeerError with user ID %d", err, stranger)
	}
	if n := <-read; n != 0 {
		t.Errorf("a stranger's server got %d bytes", n)
	}
	_, err = newClient(path, peer, []uint32{stranger}).Put(t.Context(), put, make([]byte, 32))
	if _, refused := errors.AsType[*PeerError](err); refused || err == nil {
		t.Errorf("user named: got error %v, want the server's", err)
	}
	if n := <-read; n == 0 {
		t.Error("the server of the user that was named got nothing")
	}
}
