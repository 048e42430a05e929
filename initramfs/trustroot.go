package initramfs

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"github.com/rootvouch/rootvouch/boot/bootconfig"
)

// CheckTrustRoot judges the certificates of a boot configuration; PID 1 does not
// judge them. Each must be a self-signed CA that may sign certificates, must be
// valid for at least minRootLife after the clock floor, and must name no other
// trust domain. The error lists all faults.
func CheckTrustRoot(c bootconfig.Config) error {
	var errs []error
	for n, rest := 0, []byte(c.SPIRE.TrustRoot); ; n++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return errors.Join(errs...)
		}
		if err := checkRoot(block.Bytes, c); err != nil {
			errs = append(errs, fmt.Errorf("checking certificate %d of spire.trust_root: %v", n, err))
		}
	}
}

// minRootLife is the time after the clock floor for which a root must be valid. The
// self-signed CA of a stock SPIRE server lives for a day.
const minRootLife = 30 * 24 * time.Hour

// TrustRootEnd returns the earliest expiry of the certificates in PEM.
func TrustRootEnd(trustRoot string) (end time.Time, err error) {
	for rest := []byte(trustRoot); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			return end, nil
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return time.Time{}, err
		}
		if end.IsZero() || cert.NotAfter.Before(end) {
			end = cert.NotAfter
		}
	}
}

func checkRoot(der []byte, c bootconfig.Config) error {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	if !cert.BasicConstraintsValid || !cert.IsCA || cert.KeyUsage&x509.KeyUsageCertSign == 0 {
		return fmt.Errorf("subject %q is no CA that may sign certificates", cert.Subject)
	}
	if !bytes.Equal(cert.RawIssuer, cert.RawSubject) || cert.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature) != nil {
		return fmt.Errorf("subject %q is no root: issuer %q signed it, want one that signed itself", cert.Subject, cert.Issuer)
	}
	if cert.NotAfter.Before(c.ClockFloor.Add(minRootLife)) {
		return fmt.Errorf("notAfter is %s, want at least %d days after the clock floor %s: no guest with it boots later",
			cert.NotAfter.UTC().Format("2006-01-02T15:04:05Z"), minRootLife/(24*time.Hour), c.ClockFloor.Format("2006-01-02T15:04:05Z"))
	}
	for _, uri := range cert.URIs {
		if want := "spiffe://" + c.TrustDomain; uri.String() != want {
			return fmt.Errorf("URI name is %q, want %q", uri, want)
		}
	}
	return nil
}

// ReadTrustRoot returns certificates in PEM in the form that boot.json requires. It
// drops text around the blocks, such as OpenSSL writes, and refuses other kinds of
// blocks.
func ReadTrustRoot(data []byte) (string, error) {
	var out []byte
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return "", fmt.Errorf("reading trust root: PEM block is %q, want %q", block.Type, "CERTIFICATE")
		}
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes})...)
	}
	if len(out) == 0 {
		return "", errors.New("reading trust root: found no certificate in PEM")
	}
	return string(out), nil
}
