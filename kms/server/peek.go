package server

import (
	"fmt"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// unread reports whether a peer sent bytes that this server has not read yet.
func unread(conn net.Conn) bool {
	var n int
	err := control(conn, func(fd int) (err error) {
		n, err = unix.IoctlGetInt(fd, unix.TIOCINQ)
		return err
	})
	return err == nil && n > 0
}

// hungUp reports whether a peer has closed its side of a connection.
func hungUp(conn net.Conn) bool {
	const gone = unix.POLLRDHUP | unix.POLLHUP | unix.POLLERR
	fds := []unix.PollFd{{Events: unix.POLLRDHUP}}
	err := control(conn, func(fd int) error {
		fds[0].Fd = int32(fd)
		_, err := unix.Poll(fds, 0)
		return err
	})
	return err == nil && fds[0].Revents&gone != 0
}

// shortenQueue limits the connections that the kernel holds before Accept. Further peers ask
// the kernel again, which costs the server nothing.
func shortenQueue(l net.Listener, most int) error {
	if err := control(l, func(fd int) error { return unix.Listen(fd, most) }); err != nil {
		return fmt.Errorf("bounding the queue of connections: %w", err)
	}
	return nil
}

// control calls f with the file descriptor of a connection or listener.
func control(of any, f func(fd int) error) error {
	c, ok := of.(syscall.Conn)
	if !ok {
		return unix.ENOTSUP
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) { failed = f(int(fd)) })
	if err == nil {
		err = failed
	}
	return err
}
