// Package kds gets the collateral for an appraisal: AMD's certificates and
// revocation lists. The collateral comes from a directory, from AMD's key
// distribution service or a mirror of it, or is built in.
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

// AMDCertificates returns the built-in ARK, ASK and ASVK of every AMD product. They
// save a request. Their presence does not make them trusted: the reference values
// name the root by its digest.
func AMDCertificates() []*x509.Certificate {
	certs, _, err := parsePEM(amdPEM)
	if err != nil {
		panic(fmt.Sprintf("kds: internal error: %v", err))
	}
	return certs
}

// LoadDir reads the collateral of a directory: certificates from *.der, *.crt,
// *.cer and *.pem, revocation lists from *.crl and *.pem. LoadDir ignores other
// names and sub-directories. If one of these files does not parse, LoadDir returns
// an error, because the missing content could be a revocation.
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

// parseCRL reads exactly one revocation list. x509.ParseRevocationList accepts
// bytes after the list, so parseCRL refuses them itself.
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
// methods may be called concurrently.
type Dir struct {
	path string
	now  func() time.Time // compared with the times of files only

	mu    sync.Mutex
	seen  []fileStamp // guarded by mu, like the fields below; all of the last good load
	certs []*x509.Certificate
	crls  []*x509.RevocationList
}

// fileStamp identifies one state of a file. A file that replaced another has
// another inode. A file that was written in place has another change time, unless
// both changes were within one tick of the clock; see settled.
type fileStamp struct {
	name            string
	device, inode   uint64
	size            int64
	written, change time.Time // mtime, and ctime, which no program can set
}

// NewDir returns the directory at path, not yet read.
func NewDir(path string) *Dir { return &Dir{path: path, now: time.Now} }

// Load returns the present collateral of the directory. It reads the directory
// again only if a file's name or fileStamp changed, or if a file was so new at the
// last reading that a later change may not show. If the directory cannot be read,
// Load returns an error and not the former collateral, because it must not miss a
// new revocation. The slices are shared: do not change them.
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

// settleTime is longer than one tick of any clock for file times. Some filesystems
// store times in steps of one or two seconds.
const settleTime = 3 * time.Second

// settled reports whether every file's last change is so long before moment that
// any later change gives the file another time.
func settled(stamps []fileStamp, moment time.Time) bool {
	return !slices.ContainsFunc(stamps, func(s fileStamp) bool { return moment.Sub(s.change) < settleTime })
}
