package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"
)

// notify reports the service's state to the service manager, if one listens (sd_notify(3)). It
// sends one datagram to $NOTIFY_SOCKET.
func notify(state string) error {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil
	}
	if path[0] == '@' {
		path = "\x00" + path[1:] // the abstract namespace (unix(7))
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("notifying the service manager: %w", err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte(state)); err != nil {
		return fmt.Errorf("notifying the service manager: %w", err)
	}
	return nil
}

// watchdog reports to the service manager that the server is alive, twice in each interval that
// the manager asks for (WatchdogSec=, sd_watchdog_enabled(3)). It returns when ctx is done, or
// at once if the manager does not ask.
func watchdog(ctx context.Context, live func() error) {
	microseconds, err := strconv.ParseUint(os.Getenv("WATCHDOG_USEC"), 10, 32)
	if pid := os.Getenv("WATCHDOG_PID"); err != nil || microseconds == 0 || pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return
	}
	ticker := time.NewTicker(time.Duration(microseconds) * time.Microsecond / 2)
	defer ticker.Stop()
	for {
		if live() == nil {
			notify("WATCHDOG=1")
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}
