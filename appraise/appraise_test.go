package appraise_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rootvouch/rootvouch/appraise"
	"github.com/rootvouch/rootvouch/evidence"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/refval"
	"github.com/rootvouch/rootvouch/snp"
	"github.com/rootvouch/rootvouch/test/snptest"
)

// signers holds a signer of each product, because their RSA keys take longer to
// make than all tests take to run. No test changes a signer.
var signers sync.Map // :: snp.Product -> *snptest.Signer

func newSigner(t testing.TB, p snp.Product) *snptest.Signer {
	t.Helper()
	if s, ok := signers.Load(p); ok {
		return s.(*snptest.Signer)
	}
	s, _ := signers.LoadOrStore(p, snptest.New(t, p))
	return s.(*snptest.Signer)
}

// values accepts the guest of snptest on the signer's platform.
func values(s *snptest.Signer) refval.Values {
	return refval.New(refval.EmulatedARK(s.Chain.ARKDigest()),
		[]refval.Measurement{{Digest: snp.Measurement{0x4d, 1}, HostCode: refval.HostCodeNone, Kernel: refval.KernelMeasured, Provenance: refval.Provenance{KernelSHA256: [32]byte{1}}, Gate: "9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a", VCPUs: 2, CPUType: "EPYC-v4"}},
		refval.Product{Name: s.Product, MinimumTCB: refval.Any[snp.TCB]()})
}

// asked is a request whose evidence is not parsed yet, so that a test can change
// its bytes.
type asked struct {
	appraise.Request
	Evidence evidence.Evidence
	Kind     evidence.Kind
}

// judge parses the evidence, and has it appraised.
func (q asked) judge() appraise.Verdict {
	parsed, err := appraise.Parse(q.Evidence, q.Kind)
	if err != nil {
		return appraise.NotEvidence(err)
	}
	q.Request.Evidence = parsed
	return appraise.Appraise(q.Request)
}

// authenticate parses e, and has its authenticity judged.
func authenticate(e evidence.Evidence, kind evidence.Kind, q appraise.AuthenticityRequest) appraise.Verdict {
	parsed, err := appraise.Parse(e, kind)
	if err != nil {
		return appraise.NotEvidence(err)
	}
	q.Evidence = parsed
	return appraise.Authenticate(q)
}

// request asks for e to be judged, with a fresh CRL; change may be nil.
func request(t testing.TB, s *snptest.Signer, e evidence.Evidence, change func(*asked)) asked {
	t.Helper()
	q := asked{Evidence: e, Request: appraise.Request{
		Values: values(s), Now: snptest.Now(),
		Collateral: appraise.Collateral{CRLs: []*x509.RevocationList{s.CRL(t)}},
	}}
	if change != nil {
		change(&q)
	}
	return q
}

func TestTrusted(t *testing.T) {
	for _, p := range snp.Products() {
		s := newSigner(t, p)
		for _, version := range []uint32{2, 3, 4, 5} {
			r := s.Unsigned(t, [64]byte{9})
			if r.Version = version; version < 3 {
				r.CPUID = snp.CPUID{}
			}
			q := request(t, s, s.Sign(t, r), func(q *asked) { q.ReportData = [64]byte{9} })
			got := q.judge()
			if !got.Trusted() || !got.Authentic() || got.Err() != nil || got.Outcome() != appraise.Accepted {
				t.Errorf("%s, version %d: not trusted\n%s", p, version, got)
			}
			if got.Product != p || got.TCB != s.TCB || got.Key != sha256.Sum256(s.Chain.VCEK.RawSubjectPublicKeyInfo) {
				t.Errorf("%s: got product %s, TCB %s, key %s", p, got.Product, got.TCB, got.Key)
			}
			if !strings.Contains(got.String(), "emulated: NOT CONFIDENTIAL") {
				t.Errorf("the verdict hides that the platform is emulated:\n%s", got)
			}
			if strings.Contains(got.String(), "2605.12990") != (p == snp.Milan) {
				t.Errorf("%s: the note on Milan is wrong:\n%s", p, got)
			}
		}
	}
}

func TestZeroVerdictIsNotTrusted(t *testing.T) {
	var v appraise.Verdict
	if v.Trusted() || v.Authentic() || v.Err() == nil || v.Outcome() != appraise.Malformed {
		t.Error("the zero verdict is trusted")
	}
	if v := appraise.Appraise(appraise.Request{}); v.Trusted() || v.Authentic() {
		t.Errorf("the zero request is trusted:\n%s", v)
	}
}

// TestRefusals changes one thing at a time. Each must fail its own check, and
// only that one, with its own class.
func TestRefusals(t *testing.T) {
	s, other := newSigner(t, snp.Genoa), snptest.New(t, snp.Genoa)
	type report = snp.Report
	for _, row := range []struct {
		check   string
		outcome appraise.Outcome
		report  func(*report)
		request func(*asked)
	}{
		{"measurement", appraise.Refused, func(r *report) { r.Measurement[47] ^= 1 }, nil},
		{"guest policy debug", appraise.Refused, func(r *report) { r.Policy |= snp.PolicyDebug }, nil},
		{"guest policy migration_agent", appraise.Refused, func(r *report) { r.Policy |= snp.PolicyMigrationAgent }, nil},
		{"guest policy cxl", appraise.Refused, func(r *report) { r.Policy |= snp.PolicyCXL }, nil},
		{"guest policy single_socket", appraise.Refused, nil, func(q *asked) { q.Values.GuestPolicy.SingleSocket = refval.Required }},
		{"guest policy smt", appraise.Refused, nil, func(q *asked) { q.Values.GuestPolicy.SMT = refval.Forbidden }},
		{"guest policy mem_aes_256_xts", appraise.Refused, nil, func(q *asked) { q.Values.GuestPolicy.MemAES256XTS = refval.Required }},
		{"guest policy rapl_disabled", appraise.Refused, nil, func(q *asked) { q.Values.GuestPolicy.RAPLDisabled = refval.Required }},
		{"guest policy ciphertext_hiding", appraise.Refused, nil, func(q *asked) { q.Values.GuestPolicy.CiphertextHiding = refval.Required }},
		{"guest policy page_swap_disabled", appraise.Refused, nil, func(q *asked) { q.Values.GuestPolicy.PageSwapDisabled = refval.Required }},
		{"guest policy ABI", appraise.Refused, nil, func(q *asked) {
			q.Values.GuestPolicy.MinimumABI = refval.Exactly(refval.ABI{Major: 1, Minor: 51})
		}},
		{"platform info smt", appraise.Refused, nil, func(q *asked) { q.Values.PlatformInfo.SMT = refval.Forbidden }},
		{"platform info alias_check_complete", appraise.Refused, nil, func(q *asked) { q.Values.PlatformInfo.AliasCheckComplete = refval.Required }},
		{"VMPL", appraise.Refused, func(r *report) { r.VMPL = 1 }, nil},
		{"VMPL", appraise.Refused, func(r *report) { r.VMPL = snp.VMPLHost }, func(q *asked) { q.Values.VMPL = refval.Any[uint32]() }},
		{"guest SVN", appraise.Refused, func(r *report) { r.GuestSVN = 6 }, func(q *asked) { q.Values.MinimumGuestSVN = refval.Exactly[uint32](7) }},
		{"ID key digest", appraise.Refused, func(r *report) { r.IDKeyDigest[0] = 1 }, nil},
		{"author key digest", appraise.Refused, func(r *report) { r.AuthorKeyDigest[0] = 1 }, nil},
		{"family ID", appraise.Refused, nil, func(q *asked) { q.Values.FamilyID = refval.Exactly(snp.GuestID{1}) }},
		{"image ID", appraise.Refused, func(r *report) { r.ImageID[0] = 1 }, func(q *asked) { q.Values.ImageID = refval.Exactly(snp.GuestID{}) }},
		{"HOST_DATA", appraise.Refused, nil, func(q *asked) { q.Values.HostData = refval.Exactly(snp.HostData{1}) }},
		{"chip", appraise.Refused, nil, func(q *asked) { q.Values.Chips = refval.Exactly([]snp.ChipID{{1}}) }},
		{"chip not denied", appraise.Refused, nil, func(q *asked) { q.Values.Deny.ChipIDs = []snp.ChipID{s.ChipID} }},
		{"key not denied", appraise.Refused, nil, func(q *asked) {
			q.Values.Deny.Keys = []pins.Digest{sha256.Sum256(s.Chain.VCEK.RawSubjectPublicKeyInfo)}
		}},
		{"signing key", appraise.Refused, nil, func(q *asked) { q.Values.SigningKeys = []snp.SigningKey{snp.VLEK} }},
		{"committed TCB", appraise.Refused, func(r *report) { r.CommittedTCB -= 1 << 48 }, func(q *asked) { q.Values.Products[0].MinimumTCB = refval.Exactly(s.TCB) }},
		{"current TCB", appraise.Refused, func(r *report) { r.CurrentTCB -= 1 << 48 }, func(q *asked) { q.Values.Products[0].MinimumTCB = refval.Exactly(s.TCB) }},
		{"launch TCB", appraise.Refused, func(r *report) { r.LaunchTCB -= 1 << 48 }, func(q *asked) { q.Values.Products[0].MinimumTCB = refval.Exactly(s.TCB) }},
		{"launch TCB", appraise.Refused, func(r *report) { r.LaunchTCB = 0 }, func(q *asked) { q.Values.Products[0].MinimumTCB = refval.Exactly(s.TCB) }},
		{"REPORT_DATA", appraise.NotAuthentic, func(r *report) { r.ReportData[63] = 1 }, nil},
		{"endorsed chip", appraise.NotAuthentic, func(r *report) { r.ChipID[63] = 1 }, nil},
		{"endorsed TCB", appraise.NotAuthentic, func(r *report) { r.ReportedTCB -= 1 << 56 }, nil},
		{"endorsement key", appraise.NotAuthentic, func(r *report) { r.SigningKey = snp.VLEK }, nil},
		{"product", appraise.NotAuthentic, func(r *report) { r.CPUID = snp.Milan.Example() }, nil},
		{"signature", appraise.NotAuthentic, nil, func(q *asked) {
			r, err := snp.ParseReport(q.Evidence.Report)
			if err != nil {
				t.Fatal(err)
			}
			if err := r.Sign(rand.Reader, other.Chain.VCEKKey); err != nil {
				t.Fatal(err)
			}
			q.Evidence.Report = r.Marshal()
		}},
		{"chain", appraise.NotAuthentic, nil, func(q *asked) { q.Values.RootOfTrust = refval.AMD() }},
		{"chain", appraise.NotAuthentic, nil, func(q *asked) { q.Values.RootOfTrust = refval.EmulatedARK(other.Chain.ARKDigest()) }},
		{"chain", appraise.NotAuthentic, nil, func(q *asked) { q.Evidence.Certificates = q.Evidence.Certificates[:2] }},
		{"chain", appraise.NotAuthentic, nil, func(q *asked) {
			q.Evidence.Certificates = [][]byte{s.Chain.VCEK.Raw, other.Chain.ASK.Raw, s.Chain.ARK.Raw}
		}},
		{"validity", appraise.NotAuthentic, nil, func(q *asked) {
			q.Now = s.Chain.VCEK.NotAfter.Add(time.Second)
			q.Collateral.CRLs[0] = s.CRLAt(t, 1, q.Now.Add(-time.Hour), q.Now.Add(time.Hour))
		}},
		{"validity", appraise.NotAuthentic, nil, func(q *asked) {
			q.Now = s.Chain.VCEK.NotBefore.Add(-time.Second)
			q.Collateral.CRLs[0] = s.CRLAt(t, 1, q.Now.Add(-time.Hour), q.Now.Add(time.Hour))
		}},
		{"revocation", appraise.NotAuthentic, nil, func(q *asked) { q.Collateral.CRLs = nil }},
	} {
		t.Run(row.check, func(t *testing.T) {
			r := s.Unsigned(t, [64]byte{})
			if row.report != nil {
				row.report(r)
			}
			q := request(t, s, s.Sign(t, r), row.request)
			got := q.judge()
			if got.Trusted() || got.Outcome() != row.outcome {
				t.Fatalf("got %s, want %s\n%s", got.Outcome(), row.outcome, got)
			}
			failed := make(map[string]bool)
			for _, c := range got.Checks {
				if !c.OK {
					failed[c.Name] = true
				}
			}
			if !failed[row.check] {
				t.Errorf("check %q passed\n%s", row.check, got)
			}
			// Checks that depend on a broken link may fail with it.
			also := map[string]bool{"names": true, "product accepted": true, "minimum TCB": true, "signing key": true}
			for name := range failed {
				if name != row.check && (row.outcome == appraise.Refused || !also[name]) {
					t.Errorf("check %q failed too\n%s", name, got)
				}
			}
			if !strings.Contains(got.Err().Error(), row.check+": ") {
				t.Errorf("Err does not name the check: %v", got.Err())
			}
		})
	}
}

// TestMinimumTCBNote checks that a verdict says when old firmware would pass.
func TestMinimumTCBNote(t *testing.T) {
	s := newSigner(t, snp.Genoa)
	for min, noted := range map[refval.Want[snp.TCB]]bool{refval.Any[snp.TCB](): true, refval.Exactly(s.TCB): false} {
		got := request(t, s, s.Evidence(t, [64]byte{}), func(q *asked) { q.Values.Products[0].MinimumTCB = min }).judge()
		if !got.Trusted() || strings.Contains(got.String(), "note    minimum TCB: any is accepted on Genoa") != noted {
			t.Errorf("any %v: trusted %v, want it with a note: %v\n%s", min.IsAny(), got.Trusted(), noted, got)
		}
	}
}

// TestAllMismatchesAtOnce checks that one verdict has all mismatches.
func TestAllMismatchesAtOnce(t *testing.T) {
	s := newSigner(t, snp.Turin)
	r := s.Unsigned(t, [64]byte{})
	r.Policy |= snp.PolicyDebug
	r.VMPL, r.Measurement, r.HostData = 2, snp.Measurement{1}, snp.HostData{1}
	got := request(t, s, s.Sign(t, r), func(q *asked) { q.Values.HostData = refval.Exactly(snp.HostData{}) }).judge()
	text := got.Err().Error()
	for _, want := range []string{"guest policy debug", "VMPL", "measurement", "HOST_DATA"} {
		if !strings.Contains(text, want) {
			t.Errorf("Err lacks %q:\n%s", want, text)
		}
	}
}

// TestMalformedStandsAlone checks that a verdict has only the first parse error.
func TestMalformedStandsAlone(t *testing.T) {
	s := newSigner(t, snp.Genoa)
	for _, change := range []func(*asked){
		func(q *asked) { q.Evidence.Report = q.Evidence.Report[:1183] },
		func(q *asked) { q.Evidence.Report = append(bytes.Clone(q.Evidence.Report), 0) },
		func(q *asked) { q.Evidence.Report = nil },
		func(q *asked) { q.Evidence.Certificates[2] = []byte{0x30} },
		func(q *asked) {
			q.Evidence.Certificates[0] = append(bytes.Clone(q.Evidence.Certificates[0]), 0)
		},
		func(q *asked) { q.Evidence.Certificates = make([][]byte, 9) },
		func(q *asked) { q.Kind = evidence.AzureHCL },
		func(q *asked) { q.Kind = 7 },
		func(q *asked) { q.Values.Products = nil },
		func(q *asked) { q.Values = refval.Values{} },
	} {
		got := request(t, s, s.Evidence(t, [64]byte{}), change).judge()
		if got.Outcome() != appraise.Malformed || len(got.Checks) != 1 || got.Trusted() || got.Authentic() || got.Err() == nil {
			t.Errorf("got %s with %d checks\n%s", got.Outcome(), len(got.Checks), got)
		}
	}
}

// TestRevocation goes through the states of a CRL, in both modes.
func TestRevocation(t *testing.T) {
	s, other := newSigner(t, snp.Genoa), snptest.New(t, snp.Genoa)
	now := snptest.Now()
	day := 24 * time.Hour
	stale := s.CRLAt(t, 1, now.Add(-2*day), now.Add(-day))
	unsigned := s.CRL(t)
	unsigned.Signature = bytes.Clone(unsigned.Signature)
	unsigned.Signature[0] ^= 1
	for _, row := range []struct {
		name            string
		crls            []*x509.RevocationList
		strict, unknown bool // trusted, in each mode
	}{
		{"fresh", []*x509.RevocationList{s.CRL(t)}, true, true},
		{"fresh among others", []*x509.RevocationList{other.CRL(t), unsigned, s.CRL(t)}, true, true},
		{"none", nil, false, true},
		{"stale", []*x509.RevocationList{stale}, false, true},
		{"at its next update", []*x509.RevocationList{s.CRLAt(t, 1, now.Add(-day), now)}, true, true},
		{"a second after its next update", []*x509.RevocationList{s.CRLAt(t, 1, now.Add(-day), now.Add(-time.Second))}, false, true},
		{"from the future", []*x509.RevocationList{s.CRLAt(t, 1, now.Add(time.Second), now.Add(day))}, false, true},
		{"of another root with the same name", []*x509.RevocationList{other.CRL(t)}, false, true},
		{"with a wrong signature", []*x509.RevocationList{unsigned}, false, true},
		{"fresh, but a newer one is stale", []*x509.RevocationList{s.CRL(t), s.CRLAt(t, 2, now.Add(-2*day), now.Add(-day))}, false, true},
		{"revokes the VCEK", []*x509.RevocationList{s.CRL(t, s.Chain.VCEK)}, false, false},
		{"revokes the ASK", []*x509.RevocationList{s.CRL(t, s.Chain.ASK)}, false, false},
		{"revokes another", []*x509.RevocationList{s.CRL(t, other.Chain.VCEK)}, true, true},
		{"stale, revokes the ASK", []*x509.RevocationList{s.CRLAt(t, 1, now.Add(-2*day), now.Add(-day), s.Chain.ASK)}, false, false},
		{"an older one revoked the ASK", []*x509.RevocationList{s.CRLAt(t, 0, now.Add(-day), now.Add(day), s.Chain.ASK), s.CRL(t)}, false, false},
	} {
		for mode, want := range map[appraise.RevocationMode]bool{appraise.RequireRevocation: row.strict, appraise.AcceptUnknownRevocation: row.unknown} {
			got := request(t, s, s.Evidence(t, [64]byte{}), func(q *asked) {
				q.Collateral.CRLs, q.Revocation = row.crls, mode
			}).judge()
			if got.Trusted() != want {
				t.Errorf("%s, mode %d: trusted %v, want %v\n%s", row.name, mode, got.Trusted(), want, got)
			}
			if noted := strings.Contains(got.String(), "revocation: not checked"); noted != (row.unknown && !row.strict && mode == appraise.AcceptUnknownRevocation) {
				t.Errorf("%s, mode %d: note on revocation: %v\n%s", row.name, mode, noted, got)
			}
		}
	}
}

// TestCollateralCompletes uses the verifier's certificates for those that the
// evidence lacks, including the endorsement key's.
func TestCollateralCompletes(t *testing.T) {
	for _, p := range []snp.Product{snp.Genoa, snp.Turin} {
		s, other := newSigner(t, p), snptest.New(t, p)
		all := []*x509.Certificate{other.Chain.VCEK, other.Chain.ASK, other.Chain.ARK, s.Chain.ARK, s.Chain.ASK, s.Chain.VCEK}
		for n := range 4 {
			e := s.Evidence(t, [64]byte{})
			e.Certificates = e.Certificates[:n]
			q := request(t, s, e, func(q *asked) { q.Collateral.Certificates = all })
			// Both VCEKs are of this chip and TCB. The verdict names the one that
			// signed.
			if got := q.judge(); !got.Trusted() || !got.Signer.Equal(s.Chain.VCEK) {
				t.Errorf("%s with %d certificates in the evidence: refused\n%s", p, n, got)
			}
		}
	}
}

// TestStaleCertificate presents a certificate of an older TCB with the report, as a
// host does after a firmware update. Appraise uses the collateral's certificate.
// Without one, the verdict shows the fault of the presented certificate.
func TestStaleCertificate(t *testing.T) {
	s := newSigner(t, snp.Genoa)
	older := s.TCB
	older.SNP--
	stale, err := s.Chain.IssueLeaf(rand.Reader, &s.Chain.VCEKKey.PublicKey, snp.KeyExtensions{ProductName: "Genoa", TCB: older, HWID: s.ChipID[:]}, s.Chain.VCEK.NotBefore)
	if err != nil {
		t.Fatal(err)
	}
	e := s.Evidence(t, [64]byte{})
	e.Certificates[0] = stale.Raw
	q := request(t, s, e, nil)
	if got := q.judge(); got.Trusted() || !strings.Contains(got.Err().Error(), "endorsed TCB") {
		t.Errorf("stale certificate alone: got\n%s", got)
	}
	q.Collateral.Certificates = []*x509.Certificate{s.Chain.VCEK}
	if got := q.judge(); !got.Trusted() || !got.Signer.Equal(s.Chain.VCEK) {
		t.Errorf("stale certificate beside the right one: got\n%s", got)
	}
}

// TestErrorsNameTheFault checks that each fault has its own error text.
func TestErrorsNameTheFault(t *testing.T) {
	s, milan := newSigner(t, snp.Genoa), newSigner(t, snp.Milan)
	broken := s.CRL(t)
	broken.Signature = append(bytes.Clone(broken.Signature[:len(broken.Signature)-1]), broken.Signature[len(broken.Signature)-1]^1)
	for _, row := range []struct {
		name, want, not string
		change          func(*asked)
	}{
		{"no list", "there is no CRL", "", func(q *asked) { q.Collateral.CRLs = nil }},
		{"another product's list", `none of 1 CRLs is of "ARK-Genoa"`, "verif", func(q *asked) { q.Collateral.CRLs = []*x509.RevocationList{milan.CRL(t)} }},
		{"a list with a broken signature", "verification error", "none of 1", func(q *asked) { q.Collateral.CRLs = []*x509.RevocationList{broken} }},
		{"another product's certificate", "agree on no product", "for a VCEK of ", func(q *asked) {
			q.Evidence.Certificates = milan.Chain.Certificates()
			q.Values.RootOfTrust = refval.EmulatedARK(milan.Chain.ARKDigest())
		}},
		{"one denied chip", "none of 1 denied chips", "2 denied", func(q *asked) { q.Values.Deny.ChipIDs = []snp.ChipID{s.ChipID} }},
	} {
		got := request(t, s, s.Evidence(t, [64]byte{}), row.change).judge()
		text := got.String()
		if got.Trusted() || !strings.Contains(text, row.want) || row.not != "" && strings.Contains(text, row.not) {
			t.Errorf("%s: want %q and not %q in\n%s", row.name, row.want, row.not, text)
		}
	}
}

// TestIOMMUWriteSafe requires PLATFORM_INFO bit 6, which Turin's firmware sets.
func TestIOMMUWriteSafe(t *testing.T) {
	s := newSigner(t, snp.Turin)
	for set, want := range map[bool]appraise.Outcome{true: appraise.Accepted, false: appraise.Refused} {
		r := s.Unsigned(t, [64]byte{})
		if set {
			r.PlatformInfo |= snp.PlatformIOMMUWriteSafe
		}
		got := request(t, s, s.Sign(t, r), func(q *asked) { q.Values.PlatformInfo.IOMMUWriteSafe = refval.Required }).judge()
		if got.Outcome() != want || !strings.Contains(got.String(), "platform info iommu_write_safe") {
			t.Errorf("set %t: got %s, want %s\n%s", set, got.Outcome(), want, got)
		}
	}
}

// TestVLEK signs with a key that is bound to a provider, not a chip.
func TestVLEK(t *testing.T) {
	s := newSigner(t, snp.Genoa)
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := s.Chain.IssueLeaf(rand.Reader, &key.PublicKey, snp.KeyExtensions{ProductName: "Genoa", TCB: s.TCB, CSPID: "CN=cloud"}, s.Chain.VCEK.NotBefore)
	if err != nil {
		t.Fatal(err)
	}
	r := s.Unsigned(t, [64]byte{})
	r.SigningKey, r.ChipID = snp.VLEK, snp.ChipID{}
	if err := r.Sign(rand.Reader, key); err != nil {
		t.Fatal(err)
	}
	e := evidence.Evidence{Report: r.Marshal(), Certificates: [][]byte{leaf.Raw, s.Chain.ASK.Raw, s.Chain.ARK.Raw}}
	got := request(t, s, e, func(q *asked) { q.Values.SigningKeys = []snp.SigningKey{snp.VLEK} }).judge()
	// The emulated chain has no ASVK: a VLEK below an ASK has the wrong names.
	if got.Trusted() || !strings.Contains(got.Err().Error(), `"SEV-Genoa", want "SEV-VLEK-Genoa"`) {
		t.Errorf("got %v", got.Err())
	}
}

// TestAnyReportData checks that evidence of unknown freshness is never trusted.
func TestAnyReportData(t *testing.T) {
	s := newSigner(t, snp.Genoa)
	got := request(t, s, s.Evidence(t, [64]byte{5}), func(q *asked) { q.AcceptAnyReportData = true }).judge()
	if got.Trusted() || !got.Authentic() || got.Outcome() != appraise.FreshnessUnknown || got.Err() == nil ||
		!strings.Contains(got.String(), "REPORT_DATA: not checked") {
		t.Errorf("got %s\n%s", got.Outcome(), got)
	}
	worse := request(t, s, s.Evidence(t, [64]byte{5}), func(q *asked) {
		q.AcceptAnyReportData, q.Values.Deny.ChipIDs = true, []snp.ChipID{s.ChipID}
	}).judge()
	if worse.Outcome() != appraise.Refused {
		t.Errorf("refused by policy too: got %s", worse.Outcome())
	}
}

func TestVerdictJSON(t *testing.T) {
	s := newSigner(t, snp.Genoa)
	for _, data := range [][64]byte{{}, {1}} {
		v := request(t, s, s.Evidence(t, data), nil).judge()
		out, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		var got struct {
			Trusted bool
			Outcome string
			Checks  []struct {
				Name, Got, Want, Error string
				OK                     bool
			}
		}
		if err := json.Unmarshal(out, &got); err != nil {
			t.Fatal(err)
		}
		if got.Trusted != v.Trusted() || len(got.Checks) != len(v.Checks) || got.Outcome != v.Outcome().String() {
			t.Errorf("got %s", out)
		}
		for _, c := range got.Checks {
			if c.Name == "" || c.Want == "" || c.OK != (c.Error == "") {
				t.Errorf("check: got %+v", c)
			}
		}
	}
}

// TestMemo gives the same verdicts with a memo as without, in any order.
func TestMemo(t *testing.T) {
	s := newSigner(t, snp.Genoa)
	memo := &appraise.Memo{}
	for range 2 {
		good := request(t, s, s.Evidence(t, [64]byte{}), func(q *asked) { q.Memo = memo })
		if got := good.judge(); !got.Trusted() {
			t.Fatalf("refused\n%s", got)
		}
		for i := range 3 {
			bad := good
			bad.Evidence.Certificates = s.Chain.Certificates()
			der := bytes.Clone(bad.Evidence.Certificates[i])
			der[len(der)-1] ^= 1 // in the signature
			bad.Evidence.Certificates[i] = der
			if got := bad.judge(); got.Trusted() {
				t.Errorf("accepted with certificate %d changed\n%s", i, got)
			}
		}
		stale := good
		stale.Now = good.Now.AddDate(1, 0, 0)
		if got := stale.judge(); got.Trusted() {
			t.Errorf("accepted with a stale CRL\n%s", got)
		}
		revoked := good
		revoked.Collateral.CRLs = []*x509.RevocationList{s.CRL(t, s.Chain.VCEK)}
		if got := revoked.judge(); got.Trusted() {
			t.Errorf("accepted although revoked\n%s", got)
		}
	}
}

// TestHostCodeNote checks that every verdict says so if the reference values accept
// a firmware that may run code of its host.
func TestHostCodeNote(t *testing.T) {
	s := newSigner(t, snp.Genoa)
	for code, noted := range map[refval.HostCode]bool{refval.HostCodeAccepted: true, refval.HostCodeNone: false} {
		for _, same := range []bool{true, false} {
			got := request(t, s, s.Evidence(t, [64]byte{}), func(q *asked) {
				q.Values.Measurements[0].HostCode = code
				if !same {
					q.Values.Measurements[0].Digest[0] ^= 1
				}
			}).judge()
			if got.Trusted() != same || strings.Contains(got.String(), "note    firmware: one that may run code of its host") != noted {
				t.Errorf("%s: trusted %v, want %v, and a note: %v\n%s", code, got.Trusted(), same, noted, got)
			}
		}
	}
}

// TestBareKernelNote checks that every verdict says so if the reference values
// accept a kernel that is not behind the gate.
func TestBareKernelNote(t *testing.T) {
	s := newSigner(t, snp.Genoa)
	for gate, noted := range map[refval.Gate]bool{refval.GateNone: true, refval.Gate(strings.Repeat("9a", 32)): false} {
		for _, same := range []bool{true, false} {
			got := request(t, s, s.Evidence(t, [64]byte{}), func(q *asked) {
				q.Values.Measurements[0].Gate = gate
				if !same {
					q.Values.Measurements[0].Digest[0] ^= 1
				}
			}).judge()
			if got.Trusted() != same || strings.Contains(got.String(), "note    kernel: one that is not behind the gate") != noted {
				t.Errorf("%s: trusted %v, want %v, and a note: %v\n%s", gate, got.Trusted(), same, noted, got)
			}
		}
	}
}

// TestUnmeasuredKernelNote checks that every verdict says so if the reference
// values accept a measurement that covers no kernel.
func TestUnmeasuredKernelNote(t *testing.T) {
	s := newSigner(t, snp.Genoa)
	for kernel, noted := range map[refval.Kernel]bool{refval.KernelUnmeasured: true, refval.KernelMeasured: false} {
		for _, same := range []bool{true, false} {
			got := request(t, s, s.Evidence(t, [64]byte{}), func(q *asked) {
				m := &q.Values.Measurements[0]
				if m.Kernel = kernel; noted {
					m.Gate, m.Provenance.KernelSHA256 = refval.GateNone, pins.Digest{}
				}
				if !same {
					m.Digest[0] ^= 1
				}
			}).judge()
			if got.Trusted() != same || strings.Contains(got.String(), "note    kernel: a measurement that covers no kernel") != noted {
				t.Errorf("%s: trusted %v, want %v, and a note: %v\n%s", kernel, got.Trusted(), same, noted, got)
			}
		}
	}
}
