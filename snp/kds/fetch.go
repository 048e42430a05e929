package kds

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/rootvouch/rootvouch/internal/bounded"
	"github.com/rootvouch/rootvouch/internal/durable"
	"github.com/rootvouch/rootvouch/snp"
)

const (
	firstBackoff = time.Second
	maxBackoff   = 5 * time.Second
	lastAttempt  = time.Second // the least time for the last attempt
)

// errLater is the error of a request that can be repeated later.
type errLater struct {
	error
	after time.Duration // 0: the service named no time
}

// get asks for a path until an answer passes check or the time until has come, and
// keeps the answer under name. It gives up earlier only if the service asks for a
// pause that ends after until.
func (c *Client) get(ctx context.Context, until time.Time, path, name string, check func([]byte) (any, error)) (any, error) {
	backoff := firstBackoff
	for {
		data, err := c.ask(ctx, path)
		if err == nil {
			value, err := check(data)
			if err != nil {
				return nil, fmt.Errorf("answer to %s: %w", path, err)
			}
			if err := c.keep(name, data); err != nil {
				return nil, err
			}
			return value, nil
		}
		var later errLater
		if !errors.As(err, &later) {
			return nil, err
		}
		left := until.Sub(c.config.Now()) - lastAttempt
		if left <= 0 || later.after > left {
			return nil, fmt.Errorf("giving up: %w", err)
		}
		pause := min(max(later.after, backoff), left)
		backoff = min(2*backoff, maxBackoff)
		if c.config.Retry != nil {
			c.config.Retry(err, pause)
		}
		if waitErr := c.config.Wait(ctx, pause); waitErr != nil {
			return nil, fmt.Errorf("giving up: %w", err)
		}
	}
}

// ask makes one exchange. For a fault that may pass by itself it returns an
// errLater.
func (c *Client) ask(ctx context.Context, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, c.config.Attempt)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.config.BaseURL+path, nil)
	if err != nil {
		return nil, err
	}
	response, err := c.config.HTTP.Do(request)
	if err != nil {
		return nil, errLater{error: fmt.Errorf("asking %s: %w", path, err)}
	}
	defer response.Body.Close()
	switch code := response.StatusCode; {
	case code == http.StatusOK:
	case code == http.StatusTooManyRequests || code >= 500:
		return nil, errLater{fmt.Errorf("asking %s: status is %s", path, response.Status), retryAfter(response)}
	default:
		return nil, fmt.Errorf("asking %s: status is %s, want 200", path, response.Status)
	}
	data, err := bounded.Read(response.Body, maxFile)
	if err != nil && !errors.Is(err, bounded.ErrTooLarge) {
		return nil, errLater{error: fmt.Errorf("asking %s: %w", path, err)}
	}
	if err != nil {
		return nil, fmt.Errorf("asking %s: %w", path, err)
	}
	return data, nil
}

// retryAfter returns the pause that the service asks for, in whole seconds.
func retryAfter(r *http.Response) time.Duration {
	seconds, err := strconv.ParseUint(r.Header.Get("Retry-After"), 10, 16)
	if err != nil {
		return 0
	}
	return time.Duration(seconds) * time.Second
}

// vcekPath returns the path of a VCEK, with the parameters of its product.
func vcekPath(product snp.Product, chip snp.ChipID, tcb snp.TCB) (string, error) {
	if _, err := product.EncodeTCB(tcb); err != nil {
		return "", err
	}
	if chip == (snp.ChipID{}) {
		return "", errors.New("CHIP_ID is all zero: the host masks it")
	}
	hwid, fmc := chip[:], ""
	if product == snp.Turin {
		hwid, fmc = chip[:8], fmt.Sprintf("fmcSPL=%d&", tcb.FMC)
	}
	return fmt.Sprintf("/vcek/v1/%s/%x?%sblSPL=%d&teeSPL=%d&snpSPL=%d&ucodeSPL=%d",
		product, hwid, fmc, tcb.Bootloader, tcb.TEE, tcb.SNP, tcb.Microcode), nil
}

func vcekName(product snp.Product, chip snp.ChipID, tcb snp.TCB) string {
	sum := sha256.Sum256(chip[:])
	return fmt.Sprintf("vcek-%s-%x-%d-%d-%d-%d-%d.der", product, sum[:8], tcb.FMC, tcb.Bootloader, tcb.TEE, tcb.SNP, tcb.Microcode)
}

// checkVCEK refuses a certificate of another product, chip or TCB.
func checkVCEK(data []byte, product snp.Product, chip snp.ChipID, tcb snp.TCB) (*x509.Certificate, error) {
	cert, err := x509.ParseCertificate(data)
	if err != nil {
		return nil, err
	}
	ext, err := snp.ParseKeyExtensions(cert)
	if err != nil {
		return nil, err
	}
	got, err := ext.Product()
	switch {
	case err != nil:
		return nil, err
	case got != product:
		return nil, fmt.Errorf("product is %s, want %s", got, product)
	case !ext.MatchesChip(chip):
		return nil, fmt.Errorf("chip is %x, want %s", ext.HWID, chip)
	case ext.TCB != tcb:
		return nil, fmt.Errorf("TCB is %s, want %s", ext.TCB, tcb)
	}
	return cert, nil
}

// checkCertChain checks that data holds an ASK or ASVK, and the ARK that its issuer
// name refers to.
func checkCertChain(data []byte, product snp.Product, kind snp.SigningKey) ([]*x509.Certificate, error) {
	certs, _, err := parsePEM(data)
	if err != nil {
		return nil, err
	}
	middle := "SEV-" + string(product)
	if kind == snp.VLEK {
		middle = "SEV-VLEK-" + string(product)
	}
	if len(certs) != 2 || certs[0].Subject.CommonName != middle || certs[1].Subject.CommonName != "ARK-"+string(product) {
		return nil, fmt.Errorf("got %d certificates, want %s and ARK-%s", len(certs), middle, product)
	}
	if err := certs[0].CheckSignatureFrom(certs[1]); err != nil {
		return nil, err
	}
	return certs, nil
}

// checkCRL checks that data is a list of the product, that one of the roots signed
// it, and that it is not older than kept.
func (c *Client) checkCRL(data []byte, product snp.Product, kept *x509.RevocationList) (*x509.RevocationList, error) {
	_, crls, err := Parse(data, true)
	if err != nil {
		return nil, err
	}
	if len(crls) != 1 || crls[0].Number == nil {
		return nil, fmt.Errorf("got %d revocation lists, want 1 with a number", len(crls))
	}
	crl := crls[0]
	if kept != nil && crl.Number.Cmp(kept.Number) < 0 {
		return nil, fmt.Errorf("CRL number is %s, want at least %s: that one has been seen", crl.Number, kept.Number)
	}
	for _, root := range c.config.Roots {
		if root.Subject.CommonName == "ARK-"+string(product) && bytes.Equal(root.RawSubject, crl.RawIssuer) && crl.CheckSignatureFrom(root) == nil {
			return crl, nil
		}
	}
	return nil, fmt.Errorf("CRL of %q is not signed by the root of %s", crl.Issuer.CommonName, product)
}

// cached returns the data that is kept under name, if it passes check.
func (c *Client) cached(name string, check func([]byte) (any, error)) (any, error) {
	if c.config.CacheDir == "" {
		return nil, os.ErrNotExist
	}
	data, err := os.ReadFile(filepath.Join(c.config.CacheDir, name))
	if err != nil {
		return nil, err
	}
	return check(data)
}

// keep writes data under name, stamped with the client's clock.
func (c *Client) keep(name string, data []byte) error {
	if c.config.CacheDir == "" {
		return nil
	}
	path := filepath.Join(c.config.CacheDir, name)
	if err := durable.WriteFile(path, data, 0o644); err != nil {
		return fmt.Errorf("keeping collateral: %w", err)
	}
	now := c.config.Now()
	if err := os.Chtimes(path, now, now); err != nil {
		return fmt.Errorf("keeping collateral: %w", err)
	}
	return nil
}

// age returns the age of the data under name. It is negative if the clock went
// back, or if there is no data.
func (c *Client) age(name string) time.Duration {
	info, err := os.Stat(filepath.Join(c.config.CacheDir, name))
	if err != nil {
		return -1
	}
	return c.config.Now().Sub(info.ModTime())
}
