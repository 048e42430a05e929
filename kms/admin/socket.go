package admin

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/rootvouch/rootvouch/kms/adminapi"
)

// Listen makes the admin socket at path, mode 0600. A socket that no process
// serves any more is replaced.
func Listen(path string) (net.Listener, error) {
	l, err := net.Listen("unix", path)
	if errors.Is(err, syscall.EADDRINUSE) && deserted(path) {
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("replacing admin socket: %w", err)
		}
		l, err = net.Listen("unix", path)
	}
	if err != nil {
		return nil, fmt.Errorf("making admin socket: %w", err)
	}
	// Until here others may connect, but Accept takes only peers by their user ID.
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("making admin socket: %w", err)
	}
	return &listener{Listener: l}, nil
}

// deserted reports whether path is a socket that nobody serves.
func deserted(path string) bool {
	info, err := os.Lstat(path)
	if err != nil || info.Mode().Type() != os.ModeSocket {
		return false
	}
	conn, err := net.Dial("unix", path)
	if err == nil {
		conn.Close()
		return false
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}

// listener accepts peers whose user ID is this process's own or root's, as the
// kernel has it (SO_PEERCRED, unix(7)).
type listener struct {
	net.Listener
}

// peer is a connection with who is at its other end.
type peer struct {
	net.Conn
	cred unix.Ucred
}

func (p peer) String() string { return fmt.Sprintf("uid=%d pid=%d", p.cred.Uid, p.cred.Pid) }

func (l *listener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		cred, err := adminapi.Peer(conn)
		if err == nil && allowed(cred.Uid) {
			return peer{conn, cred}, nil
		}
		conn.Close()
	}
}

func allowed(uid uint32) bool { return uid == 0 || uid == uint32(os.Geteuid()) }
