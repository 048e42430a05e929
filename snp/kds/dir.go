// Package kds gets the collateral that an appraisal needs: AMD's certificates
// and revocation lists, from a directory, from AMD's key distribution service
// or a mirror of it, or from what is built in.
//
// The package verifies nothing. An appraisal verifies all certificates and lists,
// from the root that its reference values name.
package kds

import (
	"bytes"
	"crypto/x509"
	_ "embed"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rootvouch/rootvouch/internal/bounded"
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
	data, err := bounded.ReadFile(path, maxFile)
	if err != nil {
		return nil, nil, err
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
		crl, err := parseCRL(data)
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

// parseCRL reads exactly one revocation list: x509.ParseRevocationList lets bytes
// after it through, which x509.ParseCertificate does not.
func parseCRL(der []byte) (*x509.RevocationList, error) {
	crl, err := x509.ParseRevocationList(der)
	if err != nil {
		return nil, err
	}
	if after := len(der) - len(crl.Raw); after != 0 {
		return nil, fmt.Errorf("%d bytes follow the revocation list", after)
	}
	return crl, nil
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
			crl, err := parseCRL(block.Bytes)
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
	now  func() time.Time // only held against the times of files

	mu    sync.Mutex
	seen  []fileStamp // guarded by mu, as are those below: of the last good load
	certs []*x509.Certificate
	crls  []*x509.RevocationList
}

// fileStamp tells one state of a file from another. A file that replaced another
// has another inode; one that was written in place has another change time, unless
// both were within one tick of the clock. See settled for that.
type fileStamp struct {
	name            string
	device, inode   uint64
	size            int64
	written, change time.Time // mtime, and ctime, which nobody can set
}

// NewDir returns the directory at path, not yet read.
func NewDir(path string) *Dir { return &Dir{path: path, now: time.Now} }

// Load returns the collateral of the directory as it is now, reading it only if
// a name or what the kernel says of a file is another, or if a file was so new at
// the last reading that a later change need not show. A directory that cannot be read is an error, not the former state: a
// revocation that was put there must not go unseen. The slices are shared: do not
// change them.
func (d *Dir) Load() ([]*x509.Certificate, []*x509.RevocationList, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	began := d.now()
	stamps, err := d.stamps()
	if err != nil {
		return nil, nil, fmt.Errorf("reading collateral: %w", err)
	}
	if d.seen != nil && slices.Equal(d.seen, stamps) {
		return d.certs, d.crls, nil
	}
	certs, crls, err := LoadDir(d.path)
	if err != nil {
		return nil, nil, err
	}
	d.seen, d.certs, d.crls = nil, certs, crls // not settled: read again next time
	if settled(stamps, began) {
		d.seen = stamps
	}
	return certs, crls, nil
}

func (d *Dir) stamps() ([]fileStamp, error) {
	names, err := list(d.path)
	if err != nil {
		return nil, err
	}
	stamps := make([]fileStamp, 0, len(names))
	for _, name := range names {
		stamp, err := stampOf(filepath.Join(d.path, name))
		if err != nil {
			return nil, err
		}
		stamps = append(stamps, stamp)
	}
	return stamps, nil
}

func stampOf(path string) (fileStamp, error) {
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		return fileStamp{}, &os.PathError{Op: "stat", Path: path, Err: err}
	}
	return fileStamp{
		name:    filepath.Base(path),
		device:  stat.Dev,
		inode:   stat.Ino,
		size:    stat.Size,
		written: time.Unix(stat.Mtim.Unix()),
		change:  time.Unix(stat.Ctim.Unix()),
	}, nil
}

// settleTime is longer than a tick of any kernel's clock for files, or of a
// filesystem's that has whole seconds or two.
const settleTime = 3 * time.Second

// settled reports whether each file was last changed long enough before a moment
// that any later change gives the file another time.
func settled(stamps []fileStamp, moment time.Time) bool {
	return !slices.ContainsFunc(stamps, func(s fileStamp) bool { return moment.Sub(s.change) < settleTime })
}
