// Fetchkey runs in the guest: it gets the disk's key from the key server and
// writes it to descriptor 3, a pipe to PID 1.
//
// With -commit it tells the key server that a volume was closed, and writes no key.
//
// It exits with 0 only if it wrote the key, or if the key server recorded the close. Otherwise
// it writes one line to standard error, and PID 1 repeats that line in its refusal.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/rootvouch/rootvouch/boot/bootconfig"
	"github.com/rootvouch/rootvouch/kms/fetchkey"
	"github.com/rootvouch/rootvouch/kms/keyapi"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/snp/snpdev"
)

// Time limits. PID 1 has one of its own, above their sum.
const (
	identityPatience = 40 * time.Second // for the agent to start, attest and sync
	serverPatience   = 3 * time.Minute  // for a restart of the server, or 10,000 VMs that boot at once
	commitPatience   = 20 * time.Second // short, because the VM is going down
)

const keyDescriptor = 3

func main() {
	if err := run(os.Args[1:]); err != nil {
		line := strings.Join(strings.Fields(err.Error()), " ")
		fmt.Fprintln(os.Stderr, "fetchkey: "+line)
		os.Exit(1)
	}
}

func run(args []string) error {
	flags := flag.NewFlagSet("fetchkey", flag.ContinueOnError)
	flags.SetOutput(io.Discard) // one line on failure
	config := flags.String("boot-config", bootconfig.Path, "boot.json of the VM")
	disk := flags.String("disk-uuid", "", "UUID of the disk (whose key to get)")
	agent := flags.String("workload-api", "unix://"+bootconfig.AgentSocketPath, "address of the SPIFFE Workload API")
	commit := flags.String("commit", "", "the close of the volume with this UUID, as one JSON document: report it, and get no key")
	verbose := flags.Bool("v", false, "print the steps on standard error")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "usage: fetchkey -disk-uuid UUID [flags] 3>PIPE\n       fetchkey -disk-uuid UUID -commit DOCUMENT [flags]")
		flags.SetOutput(os.Stderr)
		flags.PrintDefaults()
		os.Exit(2) // 0 says that a key was written
	} else if err != nil {
		return fmt.Errorf("config: parsing flags: %w", err)
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("config: got argument %q, want only flags", flags.Arg(0))
	}
	if *commit != "" {
		return sendCommit(*config, *disk, *commit)
	}
	c, err := configure(*config, *disk, *agent)
	if err != nil {
		return fmt.Errorf("config: %w", err)
	}
	if *verbose {
		c.Log = func(line string) { fmt.Fprintln(os.Stderr, line) }
	}
	pipe := os.NewFile(keyDescriptor, "pipe to PID 1")
	if _, err := pipe.Stat(); err != nil {
		return fmt.Errorf("config: descriptor %d: %w", keyDescriptor, err)
	}
	released, err := fetchkey.Fetch(context.Background(), c)
	if err != nil {
		return err
	}
	defer released.Wipe()
	reply, err := released.Marshal()
	if err != nil {
		return fmt.Errorf("reply: %w", err)
	}
	defer clear(reply)
	if _, err := pipe.Write(reply); err != nil {
		return fmt.Errorf("hand-over: %w", err)
	}
	if err := pipe.Close(); err != nil {
		return fmt.Errorf("hand-over: %w", err)
	}
	return nil
}

// sendCommit tells the key server that a volume was closed. The document is not secret: its MAC
// is good only for this close.
func sendCommit(path, disk, document string) error {
	request, err := keyapi.Decode[keyapi.CommitRequest]([]byte(document))
	if err != nil {
		return fmt.Errorf("config: -commit: %w", err)
	}
	boot, uuid, server, err := readBoot(path, disk)
	if err != nil {
		return fmt.Errorf("config: %w", err)
	}
	bundle, err := x509bundle.Parse(server.TrustDomain(), []byte(boot.SPIRE.TrustRoot))
	if err != nil {
		return fmt.Errorf("config: spire.trust_root: %w", err)
	}
	return fetchkey.Commit{
		Disk: uuid, Request: request, Addresses: boot.KMS.Addresses, ServerID: server, Bundles: bundle, Patience: commitPatience,
	}.Send(context.Background())
}

// readBoot reads the boot configuration, and the values that both modes use.
func readBoot(path, disk string) (bootconfig.Config, pins.UUID, spiffeid.ID, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return bootconfig.Config{}, pins.UUID{}, spiffeid.ID{}, fmt.Errorf("reading boot configuration: %w", err)
	}
	boot, err := bootconfig.Decode(data)
	if err != nil {
		return bootconfig.Config{}, pins.UUID{}, spiffeid.ID{}, err
	}
	uuid, err := pins.ParseUUID(disk)
	if err != nil {
		return bootconfig.Config{}, pins.UUID{}, spiffeid.ID{}, fmt.Errorf("-disk-uuid: %w", err)
	}
	server, err := spiffeid.FromString(boot.KMS.SPIFFEID)
	if err != nil {
		return bootconfig.Config{}, pins.UUID{}, spiffeid.ID{}, fmt.Errorf("kms.spiffe_id: %w", err)
	}
	return boot, uuid, server, nil
}

func configure(path, disk, agent string) (fetchkey.Config, error) {
	boot, uuid, server, err := readBoot(path, disk)
	if err != nil {
		return fetchkey.Config{}, err
	}
	device, err := snpdev.Open(boot.ReportDevice)
	if err != nil {
		return fetchkey.Config{}, fmt.Errorf("report device: %w", err)
	}
	return fetchkey.Config{
		Disk:      uuid,
		Addresses: boot.KMS.Addresses,
		ServerID:  server,
		Identity:  fetchkey.WorkloadAPI(agent, identityPatience),
		Evidence:  device.Evidence,
		Patience:  serverPatience,
	}, nil
}
