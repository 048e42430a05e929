// Command attestd runs in a booted rootvouch VM and gives its owner evidence.
//
// PID 1 starts it in the root filesystem, before it starts the booted system. Its argv[0] is
// "@attestd", so that systemd does not stop it.
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/rootvouch/rootvouch/attest/attestd"
	"github.com/rootvouch/rootvouch/boot/bootlog"
	"github.com/rootvouch/rootvouch/internal/bounded"
	"github.com/rootvouch/rootvouch/snp/snpdev"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "attestd: %v\n", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	flags := flag.NewFlagSet("attestd", flag.ContinueOnError)
	listen := flags.String("listen", ":8444", "TCP address to listen on")
	logPath := flags.String("boot-log", "/run/rootvouch/bootlog.json", "boot log of this VM")
	kind := flags.String("device", "", "report device: configfs-tsm, sev-guest or virtio-port (required)")
	path := flags.String("device-path", "", "path of the report device, if it is not the usual one")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return nil // it was printed
	} else if err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("got argument %q, want flags only", flags.Arg(0))
	}
	log, err := readBootLog(*logPath)
	if err != nil {
		return err
	}
	device, err := snpdev.OpenPath(*kind, *path)
	if err != nil {
		return err
	}
	server, err := attestd.New(attestd.Config{
		BootLog:  log,
		Evidence: device.Evidence,
		Rand:     rand.Reader,
		Now:      time.Now(),
		Log:      slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return server.Serve(ctx, listener)
}

func readBootLog(path string) ([]byte, error) {
	data, err := bounded.ReadFile(path, bootlog.MaxSize)
	if err != nil {
		return nil, fmt.Errorf("reading boot log: %w", err)
	}
	return data, nil
}
