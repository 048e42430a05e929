package appraise

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"sync"
)

// maxMemo bounds what a Memo holds: about 40 bytes for each signature.
const maxMemo = 16 << 10

// Memo remembers the verified signatures of certificates and revocation lists, so a
// server need not verify AMD's RSA signatures again for each report. It changes no
// verdict. It remembers only signatures that verified, by a digest over the signed
// bytes, the signature and the signer's certificate. Names, constraints, validity
// and revocation are checked every time. A Memo parses a certificate once, and
// keeps tables for keys that endorse reports often (see endorsers). Several
// goroutines may use one Memo. A nil Memo remembers nothing.
type Memo struct {
	mu       sync.Mutex            // guards what follows
	verified map[[32]byte]struct{} // :: digest of signed bytes, signature and signer
	keys     endorsers
	parsed   map[[32]byte]*x509.Certificate // :: SHA-256 of a certificate -> parsed certificate
}

// maxParsed bounds the number of certificates in a Memo, of about 10 KiB each.
const maxParsed = 1024

// certificate parses a certificate, or returns the one that it parsed from the same
// bytes before. The caller must not change it.
func (m *Memo) certificate(der []byte) (*x509.Certificate, error) {
	if m == nil {
		return x509.ParseCertificate(der)
	}
	key := sha256.Sum256(der)
	m.mu.Lock()
	cert := m.parsed[key]
	m.mu.Unlock()
	if cert != nil {
		return cert, nil
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.parsed == nil || len(m.parsed) >= maxParsed {
		m.parsed = map[[32]byte]*x509.Certificate{}
	}
	m.parsed[key] = cert
	return cert, nil
}

// check returns nil if the signature is remembered. Otherwise it calls verify.
func (m *Memo) check(signed, signature []byte, signer *x509.Certificate, verify func() error) error {
	if m == nil {
		return verify()
	}
	key := memoKey(signed, signature, signer.Raw)
	m.mu.Lock()
	_, known := m.verified[key]
	m.mu.Unlock()
	if known {
		return nil
	}
	if err := verify(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.verified == nil || len(m.verified) >= maxMemo {
		m.verified = make(map[[32]byte]struct{})
	}
	m.verified[key] = struct{}{}
	return nil
}

// memoKey hashes the fields, each behind its length.
func memoKey(fields ...[]byte) [32]byte {
	h := sha256.New()
	h.Write([]byte("rootvouch verified signature v1"))
	for _, f := range fields {
		h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(f))))
		h.Write(f)
	}
	return [32]byte(h.Sum(nil))
}
