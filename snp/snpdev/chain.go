package snpdev

import (
	"fmt"

	"github.com/rootvouch/rootvouch/evidence"
	"github.com/rootvouch/rootvouch/snp"
)

// chainOf picks the chain of the key that signed report from a certificate table:
// VCEK or VLEK, then ASK or ASVK, then ARK. If the table lacks the first, chainOf
// returns no chain, because the others are of no use without it.
func chainOf(report *snp.Report, table []byte) ([][]byte, error) {
	entries, err := snp.ParseCertTable(table)
	if err != nil {
		return nil, err
	}
	leaf := snp.GUIDVCEK
	if report.SigningKey == snp.VLEK {
		leaf = snp.GUIDVLEK
	}
	var chain [][]byte
	for i, guid := range []snp.GUID{leaf, snp.GUIDASK, snp.GUIDARK} {
		der := find(entries, guid)
		switch {
		case len(der) == 0 && i == 0:
			return nil, nil
		case len(der) > evidence.MaxCertificate:
			return nil, fmt.Errorf("certificate %s has %d bytes, want at most %d", guid, len(der), evidence.MaxCertificate)
		case len(der) > 0:
			chain = append(chain, der)
		}
	}
	return chain, nil
}

func find(entries []snp.CertEntry, guid snp.GUID) []byte {
	for _, e := range entries {
		if e.GUID == guid {
			return e.DER
		}
	}
	return nil
}
