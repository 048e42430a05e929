package e2e

import (
	"context"
	"sync"
	"testing"

	"github.com/rootvouch/rootvouch/internal/needs"
	"github.com/rootvouch/rootvouch/test/vmtest"
)

// If the host's clock is ahead, certificates are not valid yet, or no longer valid.
func TestClockAhead(t *testing.T) {
	needs.Matrix(t)
	c := setUp(t)
	c.watch(t, c.machine(t, c.web), "-rtc", "base=2045-01-01T00:00:00").Refused("agent", "expired")
}

// A slow network, on which each packet in each direction waits for up to half a
// second, delays a boot and does not end it.
func TestSlowNetwork(t *testing.T) {
	needs.Matrix(t)
	c := setUp(t)
	m := c.watch(t, c.machine(t, c.web), "-object", "filter-buffer,id=slow,netdev=net0,interval=500000")
	m.Expect("rootvouch: switch:")
	m.Expect("multi-user.target")
	t.Log("observed: it boots")
}

// If a network accepts every packet and delivers none, with the link up and the
// connections open, the boot ends at the step's bound.
func TestStalledNetwork(t *testing.T) {
	needs.Matrix(t)
	c := setUp(t)
	for _, at := range []struct{ name, step, refused string }{{"after network", "network", "agent"}, {"after agent", "agent", "key"}} {
		t.Run(at.name, func(t *testing.T) {
			t.Parallel()
			monitor, socket := vmtest.Monitored(t)
			m := c.watch(t, c.machine(t, c.web), monitor...)
			m.Expect("rootvouch: " + at.step + ": ")
			vmtest.Command(t, socket, "object-add", map[string]any{"qom-type": "filter-buffer", "id": "stall", "netdev": "net0", "interval": uint32(4e9)})
			m.Refused(at.refused, "")
		})
	}
}

// A boot does not need a server after the server's step. If a server comes back
// within its step's bound, the boot goes on.
func TestServersKilled(t *testing.T) {
	needs.Matrix(t)
	c := setUp(t)
	ctx := context.WithoutCancel(t.Context())
	startKMS := func(t *testing.T) {
		if err := c.StartKMS(ctx); err != nil {
			t.Fatal(err)
		}
	}
	startSPIRE := func(t *testing.T) {
		if err := c.StartSPIREServer(ctx, nil); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("after the key", func(t *testing.T) {
		m := c.boot(t, c.web)
		m.Expect("rootvouch: key: ")
		c.StopKMS()
		c.StopSPIREServer()
		defer startKMS(t)
		defer startSPIRE(t)
		m.Expect("multi-user.target")
		t.Log("observed: it boots")
	})
	t.Run("before they are asked, and back", func(t *testing.T) {
		spireBack, kmsBack := sync.OnceFunc(func() { startSPIRE(t) }), sync.OnceFunc(func() { startKMS(t) })
		c.StopSPIREServer()
		defer spireBack() // even if this test fails: other tests share the servers
		c.StopKMS()
		defer kmsBack()
		m := c.boot(t, c.web)
		m.Expect("rootvouch: network: ")
		spireBack()
		m.Expect("rootvouch: agent: ")
		kmsBack()
		m.Expect("multi-user.target")
		t.Log("observed: it boots")
	})
}
