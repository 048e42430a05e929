package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"time"
)

// notify tells the service manager, if there is one that listens, how the service is
// (sd_notify(3)): it sends one datagram to $NOTIFY_SOCKET.
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

// watchdog tells the service manager that the server lives, while it does, as often as it
// wants to know twice over (WatchdogSec=, sd_watchdog_enabled(3)). It ends with ctx, at
// once where nobody wants to know.
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
