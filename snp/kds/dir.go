// Package kds gets the collateral that an appraisal needs: AMD's certificates
// and revocation lists, from a directory, from AMD's key distribution service
// or a mirror of it, or from what is built in.
//
// Nothing that it returns is trusted for having come from here. An appraisal
// verifies all of it again, from the root that its reference values name.
package kds

import (
	"bytes"
	"crypto/x509"
	_ "embed"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

const (
	maxFile  = 1 << 20 // bytes of one file
	maxFiles = 4096    // in a directory
)

//go:embed roots/amd.pem
var amdPEM []byte

// AMDCertificates returns AMD's ARK, ASK and ASVK of every product, which are
// built in. They save looking them up; what makes a root a root is the digest
// in the reference values.
func AMDCertificates() []*x509.Certificate {
	certs, _, err := parsePEM(amdPEM)
	if err != nil {
		panic(fmt.Sprintf("kds: internal error: %v", err))
	}
	return certs
}

// LoadDir reads the collateral of a directory: certificates from *.der, *.crt,
// *.cer and *.pem, revocation lists from *.crl and *.pem. Other names and
// sub-directories are passed over; a file of these that does not parse is an
// error, since its absence could hide a revocation.
func LoadDir(dir string) (certs []*x509.Certificate, crls []*x509.RevocationList, err error) {
	names, err := list(dir)
	if err != nil {
		return nil, nil, fmt.Errorf("reading collateral: %w", err)
	}
	for _, name := range names {
		c, r, err := loadFile(filepath.Join(dir, name))
		if err != nil {
			return nil, nil, fmt.Errorf("reading collateral: %s: %w", name, err)
		}
		certs, crls = append(certs, c...), append(crls, r...)
	}
	return certs, crls, nil
}

// list returns the names of collateral in dir, sorted.
func list(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		name := e.Name()
		switch filepath.Ext(name) {
		case ".der", ".crt", ".cer", ".pem", ".crl":
			if !e.IsDir() && !strings.HasPrefix(name, ".") {
				names = append(names, name)
			}
		}
	}
	if len(names) > maxFiles {
		return nil, fmt.Errorf("%s has %d files, want at most %d", dir, len(names), maxFiles)
	}
	return names, nil
}

func loadFile(path string) ([]*x509.Certificate, []*x509.RevocationList, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, nil, err
	}
	if len(data) > maxFile {
		return nil, nil, fmt.Errorf("it has more than %d bytes", maxFile)
	}
	return Parse(data, filepath.Ext(path) == ".crl")
}

// Parse reads certificates and revocation lists from PEM, or one of them from
// DER: a list if list is set, else a certificate.
func Parse(data []byte, list bool) ([]*x509.Certificate, []*x509.RevocationList, error) {
	if bytes.Contains(data, []byte("-----BEGIN ")) {
		return parsePEM(data)
	}
	if list {
		crl, err := x509.ParseRevocationList(data)
		if err != nil {
			return nil, nil, err
		}
		return nil, []*x509.RevocationList{crl}, nil
	}
	cert, err := x509.ParseCertificate(data)
	if err != nil {
		return nil, nil, err
	}
	return []*x509.Certificate{cert}, nil, nil
}

func parsePEM(data []byte) (certs []*x509.Certificate, crls []*x509.RevocationList, err error) {
	for {
		var block *pem.Block
		block, data = pem.Decode(data)
		if block == nil {
			break
		}
		switch block.Type {
		case "CERTIFICATE":
			cert, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, nil, err
			}
			certs = append(certs, cert)
		case "X509 CRL":
			crl, err := x509.ParseRevocationList(block.Bytes)
			if err != nil {
				return nil, nil, err
			}
			crls = append(crls, crl)
		default:
			return nil, nil, fmt.Errorf("PEM block is %q, want CERTIFICATE or X509 CRL", block.Type)
		}
	}
	if bytes.Contains(data, []byte("-----BEGIN ")) {
		return nil, nil, errors.New("a PEM block is cut or damaged")
	}
	if len(certs)+len(crls) == 0 {
		return nil, nil, errors.New("got no PEM block")
	}
	return certs, crls, nil
}

// Dir is a directory of collateral that is read again when it has changed. Its
// methods may be called at the same time.
type Dir struct {
	path string

	mu    sync.Mutex
	seen  []fileStamp // guarded by mu, as are those below: of the last good load
	certs []*x509.Certificate
	crls  []*x509.RevocationList
}

// fileStamp tells one state of a file from another.
type fileStamp struct {
	name    string
	size    int64
	changed time.Time
}

// NewDir returns the directory at path, not yet read.
func NewDir(path string) *Dir { return &Dir{path: path} }

// Load returns the collateral of the directory as it is now, reading it only
// if a name, size or modification time is another. A directory that cannot be
// read is an error, not the former state: a revocation that was put there must
// not go unseen. The slices are shared: do not change them.
func (d *Dir) Load() ([]*x509.Certificate, []*x509.RevocationList, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	now, err := d.stamps()
	if err != nil {
		return nil, nil, fmt.Errorf("reading collateral: %w", err)
	}
	if d.seen != nil && equalStamps(d.seen, now) {
		return d.certs, d.crls, nil
	}
	certs, crls, err := LoadDir(d.path)
	if err != nil {
		return nil, nil, err
	}
	d.seen, d.certs, d.crls = now, certs, crls
	return certs, crls, nil
}

func (d *Dir) stamps() ([]fileStamp, error) {
	names, err := list(d.path)
	if err != nil {
		return nil, err
	}
	stamps := make([]fileStamp, 0, len(names))
	for _, name := range names {
		info, err := os.Stat(filepath.Join(d.path, name))
		if err != nil {
			return nil, err
		}
		stamps = append(stamps, fileStamp{name, info.Size(), info.ModTime()})
	}
	return stamps, nil
}

func equalStamps(a, b []fileStamp) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].name != b[i].name || a[i].size != b[i].size || !a[i].changed.Equal(b[i].changed) {
			return false
		}
	}
	return true
}
