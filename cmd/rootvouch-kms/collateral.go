package main

import (
	"crypto/x509"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/rootvouch/rootvouch/appraise"
	"github.com/rootvouch/rootvouch/snp/kds"
)

// collateralInterval is how often the directory is looked at, at most.
const collateralInterval = time.Second

// collateralDir is a directory of certificates and CRLs, with AMD's own
// certificates, which are built in. While what is there cannot be read, no evidence
// is appraised.
type collateralDir struct {
	dir   *kds.Dir
	clock func() time.Time
	log   *slog.Logger

	mu     sync.Mutex // guards what follows
	looked time.Time
	own    []*x509.Certificate // of the directory
	loaded appraise.Collateral
	err    error
}

func newCollateralDir(path string, clock func() time.Time, log *slog.Logger) *collateralDir {
	return &collateralDir{dir: kds.NewDir(path), clock: clock, log: log.With("dir", path)}
}

func (d *collateralDir) get() (appraise.Collateral, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now := d.clock()
	if age := now.Sub(d.looked); age >= 0 && age < collateralInterval {
		return d.loaded, d.err
	}
	d.looked = now
	certs, crls, err := d.dir.Load()
	if err != nil {
		d.loaded, d.err = appraise.Collateral{}, fmt.Errorf("reading collateral: %w", err)
		d.log.Error("collateral", "err", err)
		return d.loaded, d.err
	}
	if d.err == nil && d.loaded.Certificates != nil && slices.Equal(d.own, certs) && slices.Equal(d.loaded.CRLs, crls) {
		return d.loaded, nil
	}
	d.log.Info("collateral", "certificates", len(certs), "crls", len(crls))
	d.own = certs
	d.loaded, d.err = appraise.Collateral{Certificates: append(slices.Clone(certs), kds.AMDCertificates()...), CRLs: crls}, nil
	return d.loaded, nil
}
