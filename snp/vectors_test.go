package snp_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-sev-guest/abi"

	"github.com/rootvouch/rootvouch/internal/needs"
	"github.com/rootvouch/rootvouch/snp"
)

// vector is a row of reports.json, as far as these tests look at it.
type vector struct {
	Name, Report, Leaf, Generation, Signer, Verdict string
	Version                                         uint32
	Measurement                                     string
	ReportedTCB                                     string `json:"reported_tcb_bytes"`
	RawSignature                                    string `json:"raw_signature"`
	Binding                                         string `json:"tcb_hwid_binding"`
	CPUID                                           string `json:"cpuid_fms"`
}

func readVectors(t testing.TB) []vector {
	t.Helper()
	data, err := os.ReadFile(needs.Vectors(t, "snp-reports/reports.json"))
	if err != nil {
		t.Fatal(err)
	}
	var all []vector
	if err := json.Unmarshal(data, &all); err != nil {
		t.Fatal(err)
	}
	return all
}

func readVector(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(needs.Vectors(t, "snp-reports/"+name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestVectors reads every genuine and forged report of the shared vectors.
func TestVectors(t *testing.T) {
	for _, v := range readVectors(t) {
		t.Run(v.Name, func(t *testing.T) {
			raw := readVector(t, v.Report)
			report, err := snp.ParseReport(raw)
			if v.Name == "arsconf-NEG-tcb-reserved-byte" {
				if err == nil || !strings.Contains(err.Error(), "reserved byte 2") {
					t.Fatalf("ParseReport: got %v, want a refusal of the reserved TCB byte", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := report.Marshal(); !bytes.Equal(got, raw) {
				t.Errorf("Marshal does not give the same bytes")
			}
			if report.Version != v.Version || report.Measurement.String() != v.Measurement ||
				report.ReportedTCB.String() != v.ReportedTCB || report.SigningKey.String() != v.Signer {
				t.Errorf("got version %d, measurement %s, TCB %s, signer %s", report.Version, report.Measurement, report.ReportedTCB, report.SigningKey)
			}
			if v.CPUID != "" && report.CPUID.String() != v.CPUID {
				t.Errorf("CPUID: got %s, want %s", report.CPUID, v.CPUID)
			}
			checkLeaf(t, v, report)
		})
	}
}

func checkLeaf(t *testing.T, v vector, report *snp.Report) {
	if v.Leaf == "" {
		return
	}
	cert, err := x509.ParseCertificate(readVector(t, v.Leaf))
	if err != nil {
		t.Fatal(err)
	}
	err = report.Verify(cert.PublicKey.(*ecdsa.PublicKey))
	if (err == nil) != (v.RawSignature == "OK") {
		t.Errorf("Verify: got %v, want %s", err, v.RawSignature)
	}
	bound := bind(report, cert)
	if (bound == nil) != (v.Binding == "OK") {
		t.Errorf("binding: got %v, want %s", bound, v.Binding)
	}
	if v.RawSignature != "OK" {
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

// TestVectorWrongSize wants exactly one report's size; the field's library
// takes more.
func TestVectorWrongSize(t *testing.T) {
	raw := readVector(t, "cmc-NEG-report-wrong-size.bin")
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
	for _, name := range []string{
		"snp-reports/gsg-milan.leaf.der", "snp-reports/ars-genoa-v5.leaf.der", "snp-reports/msteeav-turin.leaf.der",
		"snp-reports/trustee-milan-vlek-aws.leaf.der", "snp-reports/sev-turin-vcek.der", "snp-reports/ars-azure-imds-vcek.der",
		"snp-reports/trustee-NEG-vcek-invalid-new.leaf.der", "snp-reports/const-azure-milan.thim-vcek.der",
		"vcek-compromised-chip/00000000.der", "vcek-compromised-chip/02000506.der",
	} {
		der, err := os.ReadFile(needs.Vectors(t, name))
		if err != nil {
			t.Fatal(err)
		}
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
