package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/rootvouch/rootvouch/internal/durable"
)

// times holds the durations of tests on this machine. They are used for the
// estimate only.
type times struct {
	Packages map[string]float64 `json:"packages"` // :: package -> seconds of its last run
	Wall     float64            `json:"wall"`     // seconds of the last run of most packages
	Sum      float64            `json:"sum"`      // seconds of its packages, which ran side by side
}

// cacheFile returns the file of times in the cache of scripts/setup, or "" if there
// is no cache.
func cacheFile() string {
	dir := os.Getenv("ROOTVOUCH_CACHE")
	if dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return ""
		}
		dir = filepath.Join(cache, "rootvouch")
	}
	return filepath.Join(dir, "test-times.json")
}

// readTimes reads the file. A missing or damaged file gives no times.
func readTimes(file string) times {
	var t times
	data, err := os.ReadFile(file)
	if err != nil || json.Unmarshal(data, &t) != nil || t.Packages == nil {
		return times{Packages: map[string]float64{}}
	}
	return t
}

// estimate says how long the packages will take if all of them run.
func (t times) estimate(packages []string) string {
	var seconds float64
	for _, name := range packages {
		seconds += t.Packages[short(name)]
	}
	if seconds == 0 || t.Sum <= 0 {
		return "no earlier run to estimate from (make test took 38 minutes on two cores, beside other work)"
	}
	took := time.Duration(seconds * t.Wall / t.Sum * float64(time.Second)).Round(time.Second)
	return fmt.Sprintf("about %s if all of them changed, less for those that did not", max(took, time.Second))
}

// with returns the times after a run. A run of few packages does not change Wall
// and Sum, because it shows little about packages that run side by side.
func (t times) with(r *results, took time.Duration) times {
	next := times{Packages: map[string]float64{}, Wall: t.Wall, Sum: t.Sum}
	var known, ran float64
	for _, u := range r.ended {
		seconds := u.elapsed
		if u.cached || u.action == "fail" {
			seconds = t.Packages[u.name]
		} else {
			ran += seconds
		}
		if u.action != "skip" {
			next.Packages[u.name] = seconds
		}
		known += seconds
	}
	if ran > known/2 {
		next.Wall, next.Sum = took.Seconds(), ran
	}
	return next
}

// write replaces the file.
func (t times) write(file string) error {
	if file == "" {
		return nil
	}
	data, err := json.Marshal(t)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return durable.WriteFile(file, data, 0o644)
}
