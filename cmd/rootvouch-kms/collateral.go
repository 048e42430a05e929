package main

import (
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/rootvouch/rootvouch/appraise"
	"github.com/rootvouch/rootvouch/snp/kds"
)

// collateralInterval is how often the directory is looked at, at most.
const collateralInterval = time.Second

// collateralDir reads a directory of certificates and CRLs, again whenever a file
// in it changes, and adds AMD's own certificates, which are built in. While what is there cannot be read, no evidence is appraised.
type collateralDir struct {
	path  string
	clock func() time.Time
	log   *slog.Logger

	mu     sync.Mutex // guards what follows
	looked time.Time
	seen   string // names, sizes and times of the files that were read
	loaded appraise.Collateral
	err    error
}

func (d *collateralDir) get() (appraise.Collateral, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.clock()
	if age := now.Sub(d.looked); age >= 0 && age < collateralInterval {
		return d.loaded, d.err
	}
	d.looked = now
	state, err := listing(d.path)
	if err == nil && state == d.seen {
		return d.loaded, d.err
	}
	if err == nil {
		var fresh appraise.Collateral
		fresh.Certificates, fresh.CRLs, err = kds.LoadDir(d.path)
		fresh.Certificates = append(fresh.Certificates, kds.AMDCertificates()...)
		d.loaded = fresh
	}
	d.seen, d.err = state, err
	if err != nil {
		d.loaded, d.err = appraise.Collateral{}, fmt.Errorf("reading collateral: %w", err)
		d.log.Error("collateral", "dir", d.path, "err", err)
		return d.loaded, d.err
	}
	d.log.Info("collateral", "dir", d.path, "certificates", len(d.loaded.Certificates), "crls", len(d.loaded.CRLs))
	return d.loaded, nil
}

// listing tells whether a directory changed.
func listing(path string) (string, error) {
	entries, err := os.ReadDir(path)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for _, e := range entries {
		info, err := os.Stat(path + "/" + e.Name())
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, "%q %d %d %v\n", e.Name(), info.Size(), info.ModTime().UnixNano(), info.Mode())
	}
	return b.String(), nil
}
