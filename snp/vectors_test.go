package snp_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-sev-guest/abi"

	"github.com/rootvouch/rootvouch/snp"
	"github.com/rootvouch/rootvouch/test/amdtest"
)

// TestVectors reads genuine reports and forgeries of them.
func TestVectors(t *testing.T) {
	for _, v := range amdtest.Vectors(t) {
		t.Run(v.Name, func(t *testing.T) {
			report, err := snp.ParseReport(v.Report)
			if v.Malformed {
				if err == nil || !strings.Contains(err.Error(), "reserved byte 2") {
					t.Fatalf("ParseReport: got %v, want a refusal of the reserved TCB byte", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := report.Marshal(); !bytes.Equal(got, v.Report) {
				t.Errorf("Marshal does not give the same bytes")
			}
			if report.Version != v.Version || report.Measurement.String() != v.Measurement ||
				report.ReportedTCB.String() != v.ReportedTCB || report.SigningKey.String() != v.Signer {
				t.Errorf("got version %d, measurement %s, TCB %s, signer %s", report.Version, report.Measurement, report.ReportedTCB, report.SigningKey)
			}
			if turin := strings.HasPrefix(v.Generation, "Turin"); turin != strings.Contains(report.PlatformInfo.String(), "iommu_write_safe") {
				t.Errorf("PLATFORM_INFO of a %s: got %s", v.Generation, report.PlatformInfo)
			}
			if v.CPUID != "" && report.CPUID.String() != v.CPUID {
				t.Errorf("CPUID: got %s, want %s", report.CPUID, v.CPUID)
			}
			checkLeaf(t, v, report)
		})
	}
}

func checkLeaf(t *testing.T, v amdtest.Vector, report *snp.Report) {
	if v.Leaf == nil {
		return
	}
	cert, err := x509.ParseCertificate(v.Leaf)
	if err != nil {
		t.Fatal(err)
	}
	err = report.Verify(cert.PublicKey.(*ecdsa.PublicKey))
	if (err == nil) != v.Signed {
		t.Errorf("Verify: got %v, want signed %v", err, v.Signed)
	}
	bound := bind(report, cert)
	if (bound == nil) != v.Bound {
		t.Errorf("binding: got %v, want bound %v", bound, v.Bound)
	}
	if !v.Signed {
		return
	}
	if err := goSevGuestSignature(report.Marshal(), cert); err != nil {
		t.Errorf("go-sev-guest differs: %v", err)
	}
}

// bind compares a report with the extensions of its leaf.
func bind(report *snp.Report, cert *x509.Certificate) error {
	ext, err := snp.ParseKeyExtensions(cert)
	if err != nil {
		return err
	}
	product, err := ext.Product()
	if err != nil {
		return err
	}
	if named, err := report.Product(); err == nil && named != product {
		return fmt.Errorf("report says %s, certificate %s", named, product)
	}
	tcb, err := product.DecodeTCB(report.ReportedTCB)
	if err != nil {
		return err
	}
	if tcb != ext.TCB {
		return fmt.Errorf("TCB: got %s, want %s", tcb, ext.TCB)
	}
	if ext.Kind() != report.SigningKey {
		return fmt.Errorf("signer: got %s, want %s", report.SigningKey, ext.Kind())
	}
	if ext.Kind() == snp.VCEK && !ext.MatchesChip(report.ChipID) {
		return fmt.Errorf("chip: got %s, want %x", report.ChipID, ext.HWID)
	}
	return nil
}

// TestVectorWrongSize checks that only the exact size of a report is accepted.
// go-sev-guest accepts more bytes.
func TestVectorWrongSize(t *testing.T) {
	raw := append(amdtest.Find(t, "cmc-milan").Report, make([]byte, 32)...)
	if _, err := snp.ParseReport(raw); err == nil || !strings.Contains(err.Error(), "got 1216 bytes, want 1184") {
		t.Errorf("ParseReport: got %v", err)
	}
	if _, err := abi.ReportToProto(raw); err != nil {
		t.Logf("go-sev-guest now refuses it too: %v", err)
	}
}

// TestVectorExtensions parses the extensions of every genuine certificate, and
// builds them again to the same bytes.
func TestVectorExtensions(t *testing.T) {
	certificates := map[string][]byte{}
	for _, v := range amdtest.Vectors(t) {
		if v.Valid {
			certificates[v.Name] = v.Leaf
		}
	}
	for _, name := range []string{"turin", "azure-imds", "compromised-tcb-0", "compromised-tcb-2.0.5.6"} {
		certificates[name] = amdtest.KeyCertificate(t, name)
	}
	for name, der := range certificates {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		ext, err := snp.ParseKeyExtensions(cert)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		built, err := ext.Build()
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for i, e := range built {
			if got := cert.Extensions[i]; !got.Id.Equal(e.Id) || !bytes.Equal(got.Value, e.Value) {
				t.Errorf("%s: extension %d: got %s %x, want %s %x", name, i, e.Id, e.Value, got.Id, got.Value)
			}
		}
	}
}

func goSevGuestSignature(raw []byte, cert *x509.Certificate) error {
	der, err := abi.ReportToSignatureDER(raw)
	if err != nil {
		return err
	}
	return cert.CheckSignature(x509.ECDSAWithSHA384, abi.SignedComponent(raw), der)
}
