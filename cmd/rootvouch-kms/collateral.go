package main

import (
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/rootvouch/rootvouch/appraise"
	"github.com/rootvouch/rootvouch/kms/admin"
	"github.com/rootvouch/rootvouch/refval"
	"github.com/rootvouch/rootvouch/snp/kds"
)

// collateralInterval is the least time between two reads of the directory.
const collateralInterval = time.Second

// collateralDir is a directory of certificates and CRLs, together with AMD's own certificates,
// which are built in. While the directory cannot be read, no evidence is appraised.
type collateralDir struct {
	dir   *kds.Dir
	clock func() time.Time
	log   *slog.Logger
	path  string

	mu     sync.Mutex // guards the fields below
	looked time.Time
	own    []*x509.Certificate // certificates of the directory
	loaded appraise.Collateral
	err    error
}

func newCollateralDir(path string, clock func() time.Time, log *slog.Logger) *collateralDir {
	return &collateralDir{path: path, dir: kds.NewDir(path), clock: clock, log: log.With("dir", path)}
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

// reload makes the next request read the directory again.
func (d *collateralDir) reload() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.looked = time.Time{}
}

// newestCRLs returns the newest list of each issuer in the directory.
func (d *collateralDir) newestCRLs() ([]*x509.RevocationList, error) {
	c, err := d.get()
	if err != nil {
		return nil, err
	}
	newest := map[string]*x509.RevocationList{} // :: issuer, DER -> its newest list
	for _, crl := range c.CRLs {
		if have := newest[string(crl.RawIssuer)]; have == nil || crl.NextUpdate.After(have.NextUpdate) {
			newest[string(crl.RawIssuer)] = crl
		}
	}
	return slices.Collect(maps.Values(newest)), nil
}

// pageCRLs returns the newest lists for the operator's page.
func (d *collateralDir) pageCRLs() ([]admin.CRL, error) {
	all, err := d.newestCRLs()
	var shown []admin.CRL
	for _, crl := range all {
		shown = append(shown, admin.CRL{Issuer: crl.Issuer.String(), From: crl.ThisUpdate, Ends: crl.NextUpdate})
	}
	slices.SortFunc(shown, func(a, b admin.CRL) int { return strings.Compare(a.Issuer, b.Issuer) })
	return shown, err
}

// checkFresh returns an error unless at least one CRL is fresh.
func (d *collateralDir) checkFresh() error {
	all, err := d.newestCRLs()
	if err != nil {
		return err
	}
	now := d.clock()
	for _, crl := range all {
		if !now.Before(crl.ThisUpdate) && !now.After(crl.NextUpdate) {
			return nil
		}
	}
	return fmt.Errorf("none of the CRLs of %d issuers is fresh: no evidence can be appraised (rootvouch collateral fetch)", len(all))
}

// lacks lists the roots in reference values for which there is no fresh CRL.
func (d *collateralDir) lacks(values refval.Values) []string {
	c, err := d.get()
	if err != nil {
		return []string{err.Error()}
	}
	now := d.clock()
	fresh := func(root *x509.Certificate) bool {
		return slices.ContainsFunc(c.CRLs, func(crl *x509.RevocationList) bool {
			return !now.Before(crl.ThisUpdate) && !now.After(crl.NextUpdate) && crl.CheckSignatureFrom(root) == nil
		})
	}
	var notes []string
	want := func(name string, roots []*x509.Certificate, is func(*x509.Certificate) bool, advice string) {
		if !slices.ContainsFunc(roots, func(root *x509.Certificate) bool { return is(root) && fresh(root) }) {
			notes = append(notes, fmt.Sprintf("%s has no fresh CRL of %s: no evidence is appraised, and no key released, until it has one (%s)", d.path, name, advice))
		}
	}
	if ark, ok := values.RootOfTrust.Emulated(); ok {
		known := slices.ContainsFunc(c.Certificates, func(root *x509.Certificate) bool { return sha256.Sum256(root.Raw) == ark })
		if !known { // the root may come with the evidence, so its list is unknown
			if err := d.checkFresh(); err != nil {
				notes = append(notes, err.Error())
			}
			return notes
		}
		want("the emulated ARK "+ark.String(), c.Certificates, func(root *x509.Certificate) bool { return sha256.Sum256(root.Raw) == ark }, "each vm run --asp makes one")
		return notes
	}
	for _, p := range values.Products {
		want(fmt.Sprintf("AMD's ARK for %s", p.Name), kds.AMDCertificates(), func(root *x509.Certificate) bool { return root.Subject.CommonName == "ARK-"+string(p.Name) },
			fmt.Sprintf("rootvouch collateral fetch --product %s", p.Name))
	}
	return notes
}

// crlWarning is how long before a CRL expires there is a warning.
const crlWarning = 24 * time.Hour

// checkExpiry reports CRLs that expire soon or have expired.
func (d *collateralDir) checkExpiry() error {
	all, err := d.newestCRLs()
	if err != nil {
		return err
	}
	var errs []error
	for _, crl := range all {
		if crl.NextUpdate.Sub(d.clock()) < crlWarning {
			errs = append(errs, fmt.Errorf("CRL of %s expires at %s", crl.Issuer.CommonName, crl.NextUpdate.UTC().Format(time.RFC3339)))
		}
	}
	return errors.Join(errs...)
}

// runsOut is when the first of the newest CRLs expires, in seconds since 1970; 0 if there is
// none.
func (d *collateralDir) runsOut() float64 {
	all, err := d.newestCRLs()
	if err != nil || len(all) == 0 {
		return 0
	}
	first := slices.MinFunc(all, func(a, b *x509.RevocationList) int { return a.NextUpdate.Compare(b.NextUpdate) })
	return float64(first.NextUpdate.Unix())
}
