package adminapi

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// PeerError says that an unexpected user serves the admin socket.
type PeerError struct {
	Path string
	UID  uint32   // the server's user
	Want []uint32 // the users that may serve it
}

func (e *PeerError) Error() string {
	return fmt.Sprintf("%s is served by user ID %d, want one of %d", e.Path, e.UID, e.Want)
}

// Hint says what to do, at a terminal.
func (e *PeerError) Hint() string {
	return "nothing was sent; --kms-user names the user that rootvouch-kms runs as"
}

// Peer returns the user at the other end of a unix socket, as the kernel has it
// (SO_PEERCRED, unix(7)). For a client that is the process that called listen(2).
func Peer(conn net.Conn) (unix.Ucred, error) {
	c, ok := conn.(*net.UnixConn)
	if !ok {
		return unix.Ucred{}, errors.New("connection is not a unix socket")
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return unix.Ucred{}, err
	}
	var cred *unix.Ucred
	var failed error
	err = raw.Control(func(fd uintptr) {
		cred, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err := errors.Join(err, failed); err != nil {
		return unix.Ucred{}, err
	}
	return *cred, nil
}

// checkServer refuses a server unless it runs as root, as this process's own user or as one of
// users. The client sends keys to the server and believes its answers.
func checkServer(conn net.Conn, peer func(net.Conn) (unix.Ucred, error), path string, users []uint32) error {
	cred, err := peer(conn)
	if err != nil {
		return fmt.Errorf("reading the user that serves %s: %v", path, err)
	}
	want := []uint32{0}
	for _, u := range append([]uint32{uint32(os.Geteuid())}, users...) {
		if !slices.Contains(want, u) {
			want = append(want, u)
		}
	}
	if !slices.Contains(want, cred.Uid) {
		return &PeerError{Path: path, UID: cred.Uid, Want: want}
	}
	return nil
}
