package spire

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/rootvouch/rootvouch/spire/admin"
)

// stockIntervals takes our settings out of a server.conf.
func stockIntervals(conf string) string {
	conf = strings.Replace(conf, "cache_reload_interval", "#", 1)
	return strings.Replace(conf, "events_based_cache", "#", 1)
}

func fullReload(conf string) string { return strings.Replace(conf, "events_based_cache", "#", 1) }

// BenchmarkNodeAttestation is the time between two lines of a stock agent's log:
// that it starts node attestation, and that this was successful. TLS to the server,
// both plugins, the report, its appraisal and the agent's SVID lie between them;
// certificates come with the evidence.
func BenchmarkNodeAttestation(b *testing.B) {
	w := build(b)
	w.start(nil)
	w.entries()
	var took []time.Duration
	for b.Loop() {
		a := w.agent(w.newLaunch(wanted), soon)
		within(b, 20*time.Second, "attestation", func() error {
			if _, ok := a.said("Node attestation was successful"); !ok {
				return os.ErrNotExist
			}
			return nil
		})
		from, ok := a.said("Starting node attestation")
		to, _ := a.said("Node attestation was successful")
		if !ok {
			b.Fatalf("agent does not say when it starts:\n%s", a.output())
		}
		took = append(took, to.Sub(from))
		a.stop()
	}
	report(b, took)
}

// BenchmarkFirstSVID is the delay from the start of the agent's process to the
// workload's first SVID.
func BenchmarkFirstSVID(b *testing.B) {
	for _, c := range []struct {
		name string
		conf func(string) string // of the server
		sync time.Duration       // of the agent
	}{
		{"alias/stock-settings", stockIntervals, 5 * time.Second},
		{"alias/sync=250ms", nil, 250 * time.Millisecond},
		{"alias/sync=100ms", nil, 100 * time.Millisecond},
		{"alias/sync=100ms,full-reload", fullReload, 100 * time.Millisecond},
		{"stable/stock-settings", stockIntervals, 5 * time.Second},
	} {
		b.Run(c.name, func(b *testing.B) {
			w := build(b)
			stable := strings.HasPrefix(c.name, "stable")
			if stable {
				w.config.AgentPathTemplate = "/{{ .PluginName }}/one"
			}
			w.start(c.conf)
			w.entries()
			if stable {
				w.hangOnAgent(b, w.agentID("one"))
			}
			time.Sleep(6 * time.Second) // entries are in the cache of every server
			var took []time.Duration
			for b.Loop() {
				device := w.newLaunch(wanted)
				start := time.Now()
				a := w.agent(device, c.sync)
				if _, err := w.svid(a, 30*time.Second); err != nil {
					b.Fatalf("%v\n%s", err, a.output())
				}
				took = append(took, time.Since(start))
				a.stop()
			}
			report(b, took)
		})
	}
}

// hangOnAgent makes the workload a child of one agent ID, with no alias between.
func (w *rig) hangOnAgent(b *testing.B, agentID spiffeid.ID) {
	b.Helper()
	group, err := admin.VM{Name: "one", Values: w.values(wanted), Workload: workload, Fetchkey: w.program}.Entries(domain)
	if err != nil {
		b.Fatal(err)
	}
	for i := range group.Entries {
		if group.Entries[i].SPIFFEID == workload {
			group.Entries[i].Parent = agentID
		}
	}
	if _, err := w.admin.Apply(b.Context(), group); err != nil {
		b.Fatal(err)
	}
}

func report(b *testing.B, took []time.Duration) {
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "ms/median")
	b.ReportMetric(float64(took[len(took)-1].Microseconds())/1000, "ms/max")
	b.ReportMetric(0, "ns/op")
}
