package e2e

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/platform"
	"github.com/rootvouch/rootvouch/refval"
	"github.com/rootvouch/rootvouch/test/vmtest"
)

// A disk that differs from the pinned one in a single bit never becomes a root.
func TestChangedDisk(t *testing.T) {
	c := setUp(t)
	p := c.pins(t, c.web)
	middle := func(offset, size uint64) int64 { return int64(offset + size/2) }
	for _, test := range []struct {
		name         string
		offset       int64
		step, reason string
	}{
		{"filesystem", middle(p.PayloadOffset, p.HashOffset), "verify", "does not match the root hash"},
		{"hash tree", middle(p.PayloadOffset+p.HashOffset+pins.BlockSize, p.PayloadSize-p.HashOffset-pins.BlockSize), "verify", "does not match the root hash"},
		{"verity superblock", int64(p.PayloadOffset + p.HashOffset + 8), "dm-verity", "superblock"},
		{"LUKS2 binary header", 100, "header", p.HeaderSHA256.String()},
		{"LUKS2 keyslots area", middle(0, p.PayloadOffset), "header", p.HeaderSHA256.String()},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c.bootDisk(t, vmtest.FlipBit(t, c.web.Disk(), test.offset)).Refused(test.step, test.reason)
		})
	}
}

// Another disk may claim the UUID of the right one.
func TestOtherDiskWithSameUUID(t *testing.T) {
	c := setUp(t)
	p := c.pins(t, c.web)
	other := c.guest(t, "other-disk")
	root := c.smallRoot(t)
	if err := c.BuildImage(t.Context(), other, root, "--disk-uuid", p.DiskUUID.String()); err != nil {
		t.Fatal(err)
	}
	if got := c.pins(t, other).DiskUUID; got != p.DiskUUID {
		t.Fatalf("the other disk has UUID %s, want %s", got, p.DiskUUID)
	}
	c.bootDisk(t, other.Disk()).Refused("header", p.HeaderSHA256.String())
}

// If a host starts other bytes than the AMD-SP measured, no kernel starts: the
// firmware compares the bytes with the measured hashes, and stops without a
// message.
func TestOtherBytesThanMeasured(t *testing.T) {
	c := setUp(t)
	measured := c.machine(t, c.web)
	commandLine, initramfs := measured, measured
	commandLine.CommandLine += " init=/bin/sh"
	initramfs.Initramfs = vmtest.Append(t, measured.Initramfs, 0)
	for name, given := range map[string]platform.Guest{"command line with one more word": commandLine, "initramfs with one more byte": initramfs} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			vmtest.BootWith(t, measured, platform.Options{
				AMDSP: c.chip, QEMU: vmtest.Swapped(t, measured, given), StartTimeout: 40 * time.Second,
			}).NeverStarted()
		})
	}
}

// If a host has other bytes measured and starts them, the VM gets no identity.
func TestOtherMeasurement(t *testing.T) {
	c := setUp(t)
	// The same guest with a clock floor one second later has another measurement.
	g := c.guest(t, "web")
	c.sameDisk(t, g)
	before := c.values
	if err := c.buildInitramfs(t.Context(), t, g, "--clock-floor", "2026-01-01T00:00:01Z"); err != nil {
		t.Fatal(err)
	}
	t.Run("that SPIRE has no entry for", func(t *testing.T) {
		c.boot(t, g).Refused("key", "no identity issued")
	})
	c.values = before
	if err := c.writeTrust(before); err != nil {
		t.Fatal(err)
	}
	t.Run("that SPIRE's policy does not have", func(t *testing.T) {
		c.boot(t, g).Refused("agent", "PermissionDenied")
	})
}

func TestDisabledRecord(t *testing.T) {
	c := setUp(t)
	disk := c.pins(t, c.web).DiskUUID.String()
	c.keys(t, "disable", disk)
	defer c.keys(t, "enable", disk)
	since := len(c.auditLog(t))
	c.boot(t, c.web).Refused("key", "denied")
	c.audited(t, since, disk, "disabled")
}

// A production record accepts no emulated evidence, even if everything else is
// right.
func TestEmulatedEvidenceForProduction(t *testing.T) {
	c := setUp(t)
	ctx := t.Context()
	data, err := os.ReadFile(c.web.Refval())
	if err != nil {
		t.Fatal(err)
	}
	values, err := refval.Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	values.RootOfTrust = refval.AMD()
	production, err := values.Encode()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "refval.json")
	if err := os.WriteFile(path, production, 0o644); err != nil {
		t.Fatal(err)
	}
	put := func(ctx context.Context, refval string) {
		t.Helper()
		must(t)(c.Rootvouch(ctx, "keys", "put", "--kms-socket", c.KMSSocket(), "--spiffe-id", c.web.WorkloadID(),
			"--pins", c.web.Pins(), "--refval", refval, "--key", c.Key(c.web), "--replace", "--change-root-of-trust"))
	}
	put(ctx, path)
	defer put(context.WithoutCancel(ctx), c.web.Refval())
	since := len(c.auditLog(t))
	c.boot(t, c.web).Refused("key", "denied")
	c.audited(t, since, "which is not AMD's ARK")
}

// The guest asks absent servers for a bounded time.
func TestUnreachable(t *testing.T) {
	c := setUp(t)
	again := context.WithoutCancel(t.Context())
	c.StopKMS()
	defer func() {
		if err := c.StartKMS(again); err != nil {
			t.Error(err)
		}
	}()
	withoutKMS := c.boot(t, c.web)
	withoutKMS.Expect("rootvouch: agent:") // it needs SPIRE's server no more
	c.StopSPIREServer()
	defer func() {
		if err := c.StartSPIREServer(again, nil); err != nil {
			t.Error(err)
		}
	}()
	withoutSPIRE := c.boot(t, c.web)
	withoutKMS.Refused("key", "connection refused")
	withoutSPIRE.Refused("agent", "connection refused")
}

// Root in the booted system can get fresh evidence of the same launch and the same
// SVID, but gets no key.
func TestSecondRequestFromBootedSystem(t *testing.T) {
	c := setUp(t)
	ctx := t.Context()
	g := c.guest(t, "attacked")
	uuid := "8f1c8e1c-7a3e-4f7e-9d5b-2c1a4b6d8e0f"
	if err := c.build(ctx, t, g, c.attackerRoot(t, uuid), nil, "--disk-uuid", uuid); err != nil {
		t.Fatal(err)
	}
	if err := c.register(ctx, g); err != nil {
		t.Fatal(err)
	}
	since := len(c.auditLog(t))
	m := c.boot(t, g)
	m.Expect("rootvouch: switch:")
	m.Expect("attacker: the agent serves")
	if line := m.Expect("attacker: "); !strings.Contains(line, "got no key: fetchkey") || !strings.Contains(line, "denied") {
		t.Errorf("got %q, want a refusal of the key server", line)
	}
	m.PoweredOff()
	c.audited(t, since, uuid, "already")
}
