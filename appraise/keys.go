package appraise

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"

	"github.com/rootvouch/rootvouch/snp"
	"github.com/rootvouch/rootvouch/snp/p384"
)

const (
	// maxTables bounds the keys that have a table, of 610 KiB each.
	maxTables = 64
	// tableAfter is the number of trusted reports after which a key gets a table. A
	// table takes as long to make as seven verifications without one.
	tableAfter = 3
	maxCounted = 16 << 10
)

// endorsers are the endorsement keys whose reports were trusted. A key that signs often
// gets a table, which makes verifying its signatures faster. A key without a chain to a
// named root gets no place here.
type endorsers struct {
	trusted map[[sha256.Size]byte]int       // :: digest of the key -> how often
	tables  map[[sha256.Size]byte]*p384.Key // :: digest of the key -> its table
}

// verify verifies a report's signature, as [snp.Report.Verify] does.
func (m *Memo) verify(r *snp.Report, cert *x509.Certificate, key *ecdsa.PublicKey) error {
	if m != nil {
		m.mu.Lock()
		table := m.keys.tables[keyDigest(cert)]
		m.mu.Unlock()
		if table != nil {
			return r.VerifyBy(key, table.Verify)
		}
	}
	return r.Verify(key)
}

// trust notes that a report by the key of cert was trusted.
func (m *Memo) trust(cert *x509.Certificate) {
	key, ok := cert.PublicKey.(*ecdsa.PublicKey)
	if m == nil || !ok || !m.wantsTable(keyDigest(cert)) {
		return
	}
	table, err := p384.New(key)
	if err != nil {
		return // it verified without one
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.keys.tables == nil {
		m.keys.tables = map[[sha256.Size]byte]*p384.Key{}
	}
	for other := range m.keys.tables {
		if len(m.keys.tables) < maxTables {
			break
		}
		delete(m.keys.tables, other)
		delete(m.keys.trusted, other)
	}
	m.keys.tables[keyDigest(cert)] = table
}

// wantsTable counts a trusted report of the key, and reports whether the key should
// get a table now.
func (m *Memo) wantsTable(key [sha256.Size]byte) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.keys.trusted == nil || len(m.keys.trusted) >= maxCounted {
		m.keys.trusted = map[[sha256.Size]byte]int{}
	}
	m.keys.trusted[key]++
	return m.keys.trusted[key] == tableAfter
}
