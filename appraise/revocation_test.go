package appraise

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"testing"
	"time"
)

// TestPartialCRL: a list that does not cover all certificates cannot say "not
// revoked", whether or not its extension is critical.
func TestPartialCRL(t *testing.T) {
	whole := x509.RevocationList{Number: big.NewInt(1), NextUpdate: time.Unix(1, 0)}
	if err := checkCRL(&whole); err != nil {
		t.Error(err)
	}
	for _, extension := range []pkix.Extension{
		{Id: deltaCRLIndicator}, {Id: issuingDistributionPoint}, {Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true},
	} {
		part := whole
		part.Extensions = []pkix.Extension{extension}
		if err := checkCRL(&part); err == nil {
			t.Errorf("extension %s, critical %t: got no error", extension.Id, extension.Critical)
		}
	}
}
