// Package health shows whether a key server is well.
//
// It answers GET /live (should the process keep running?), /ready (would it release a key now?)
// and /metrics (Prometheus text format) over plain HTTP. The answers are not secret and the
// requests change nothing. The operator chooses the address; it is usually local to the
// machine.
package health

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/rootvouch/rootvouch/kms/keyapi"
	"github.com/rootvouch/rootvouch/pins"
)

// Check is one condition that can fail.
type Check struct {
	Name string
	// Fatal says that a failure needs a restart of the process: /live fails too.
	Fatal bool
	// Warning says that a failure is only logged and counted: /ready stays good.
	Warning bool
	// Do returns what is wrong, or nil. It is called often, from several goroutines.
	Do func() error
}

// Gauge is a number that is read on demand.
type Gauge struct {
	Name, Help string
	Read       func() float64
}

// Health has the checks and the metrics of one server.
type Health struct {
	checks   []Check
	log      *slog.Logger
	registry *prometheus.Registry
	answers  *prometheus.HistogramVec
	refusals *prometheus.CounterVec

	mu     sync.Mutex        // guards the fields below
	said   map[string]string // :: name of a check -> its last text
	capped struct {          // the newest refusal at a record's limit
		disk pins.UUID
		at   time.Time
	}
}

// New makes a Health.
func New(log *slog.Logger, checks []Check, gauges []Gauge) *Health {
	h := &Health{log: log, registry: prometheus.NewRegistry(), said: map[string]string{}}
	h.answers = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "rootvouch_kms_answer_seconds",
		Help: "Time that an answer took, by request (nonce, release) and code (ok, or that of the refusal).",
		// An answer takes some milliseconds, but a guest waits for seconds.
		Buckets: []float64{.002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 30},
	}, []string{"request", "code"})
	h.refusals = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "rootvouch_kms_refusals_total",
		Help: "Refusals, by what the request failed at; one can fail at several checks.",
	}, []string{"check"})
	h.registry.MustRegister(h.answers, h.refusals)
	h.checks = append(slices.Clone(checks), Check{Name: "cap", Warning: true, Do: h.checkCapped})
	for _, g := range gauges {
		h.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "rootvouch_kms_" + g.Name, Help: g.Help}, g.Read))
	}
	for _, c := range h.checks {
		h.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "rootvouch_kms_ill", Help: "1 while a check fails.", ConstLabels: prometheus.Labels{"check": c.Name},
		}, func() float64 {
			if c.Do() != nil {
				return 1
			}
			return 0
		}))
	}
	return h
}

// Answered counts an answer.
func (h *Health) Answered(request string, code keyapi.Code, took time.Duration) {
	label := string(code)
	if label == "" {
		label = "ok"
	}
	h.answers.WithLabelValues(request, label).Observe(took.Seconds())
}

// capCheck is the check that fails when a record's limit is reached.
const capCheck = "cap"

// Refused counts a refused request for a disk's key.
func (h *Health) Refused(disk pins.UUID, checks []string) {
	for _, check := range checks {
		h.refusals.WithLabelValues(check).Inc()
		if check == capCheck {
			h.mu.Lock()
			h.capped.disk, h.capped.at = disk, time.Now()
			h.mu.Unlock()
		}
	}
}

// checkCapped fails for an hour after a disk's launches exceeded its limit.
func (h *Health) checkCapped() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.capped.at.IsZero() || time.Since(h.capped.at) > time.Hour {
		return nil
	}
	return fmt.Errorf("disk %s is launched more often than its record allows (max_releases_per_hour): does its host launch it again and again?", h.capped.disk)
}

// Live returns what makes the process useless, or nil.
func (h *Health) Live() error { return h.run(true) }

// Ready returns what keeps the server from releasing a key, or nil.
func (h *Health) Ready() error { return h.run(false) }

func (h *Health) run(fatal bool) error {
	var all []error
	for _, c := range h.checks {
		if fatal && !c.Fatal || c.Warning {
			continue
		}
		if err := c.Do(); err != nil {
			all = append(all, fmt.Errorf("%s: %w", c.Name, err))
		}
	}
	return errors.Join(all...)
}

// watchInterval is the time between two rounds of checks.
const watchInterval = 10 * time.Second

// Watch makes all checks at an interval until ctx is done, and logs what changes, so that an
// operator without a monitor can read it in the log.
func (h *Health) Watch(ctx context.Context) {
	ticker := time.NewTicker(watchInterval)
	defer ticker.Stop()
	for {
		h.Note()
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// Note makes all checks once, and logs what changed since the last round.
func (h *Health) Note() {
	for _, c := range h.checks {
		now := ""
		if err := c.Do(); err != nil {
			now = err.Error()
		}
		switch before := h.say(c.Name, now); {
		case now == before:
		case now == "":
			h.log.Info("well again", "check", c.Name)
		case before == "":
			h.log.Error("ill", "check", c.Name, "err", now)
		}
	}
}

// say remembers a check's text and returns the text before it.
func (h *Health) say(check, now string) (before string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	before, h.said[check] = h.said[check], now
	return before
}

// Handler answers /live, /ready and /metrics.
func (h *Health) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /live", answer(h.Live))
	mux.HandleFunc("GET /ready", answer(h.Ready))
	mux.Handle("GET /metrics", promhttp.HandlerFor(h.registry, promhttp.HandlerOpts{}))
	return mux
}

func answer(check func() error) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		if err := check(); err != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprintln(w, strings.ToValidUTF8(err.Error(), "\uFFFD"))
			return
		}
		fmt.Fprintln(w, "ok")
	}
}

// Serve answers on a listener, which it closes, until ctx is done.
func (h *Health) Serve(ctx context.Context, l net.Listener) error {
	const limit = 10 * time.Second
	server := &http.Server{Handler: h.Handler(), ReadHeaderTimeout: limit, ReadTimeout: limit, WriteTimeout: limit, IdleTimeout: limit,
		MaxHeaderBytes: 16 << 10, ErrorLog: slog.NewLogLogger(h.log.Handler(), slog.LevelDebug)}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	err := server.Serve(l)
	if stop() {
		return fmt.Errorf("serving health: %w", err)
	}
	return nil
}
