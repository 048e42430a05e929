package admin

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"

	"github.com/rootvouch/rootvouch/kms/adminapi"
)

// Listen makes the admin socket at path. The mode is 0600, or 0666 if users other than root and
// the server's own user have a role: the kernel then tells the server who connects. Listen
// replaces a socket that no process serves.
func Listen(path string, roles Roles) (net.Listener, error) {
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
	mode := os.FileMode(0o600)
	if roles.open() {
		mode = 0o666
	}
	// Other users may connect before this line, but Accept takes only peers with a role.
	if err := os.Chmod(path, mode); err != nil {
		l.Close()
		return nil, fmt.Errorf("making admin socket: %w", err)
	}
	return &listener{l, roles}, nil
}

// deserted reports whether path is a socket that no process serves.
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

// listener accepts peers that have a role. It reads the user and groups that the kernel
// recorded when the peer connected (SO_PEERCRED and SO_PEERGROUPS, unix(7)).
type listener struct {
	net.Listener
	roles Roles
}

// peer is a connection, and the user at its other end.
type peer struct {
	net.Conn
	role Role
	name string
}

func (l *listener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if p, err := l.identify(conn); err == nil && p.role > Nobody {
			return p, nil
		}
		conn.Close()
	}
}

func (l *listener) identify(conn net.Conn) (peer, error) {
	cred, err := adminapi.Peer(conn)
	if err != nil {
		return peer{}, err
	}
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return peer{}, err
	}
	var groups []uint32
	var failed error
	if err := raw.Control(func(fd uintptr) { groups, failed = peerGroups(int(fd)) }); err != nil || failed != nil {
		return peer{}, errors.Join(err, failed)
	}
	return peer{conn, l.roles.of(cred.Uid, append(groups, cred.Gid)), describe(cred)}, nil
}
