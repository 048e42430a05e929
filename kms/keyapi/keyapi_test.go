package keyapi

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rootvouch/rootvouch/evidence"
	"github.com/rootvouch/rootvouch/pins"
)

func released() *Released {
	r := &Released{
		Header:     pins.Header{DiskUUID: pins.UUID{0xaa, 1}, HeaderSHA256: pins.Digest{0xbb}},
		Generation: 3,
		KMSID:      "spiffe://example.org/kms",
	}
	for i := range r.Key {
		r.Key[i] = byte(i + 1)
	}
	return r
}

func marshal(t testing.TB, r *Released) []byte {
	t.Helper()
	b, err := r.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestReleasedLayout pins the offsets that docs/spec/keyapi.md prints.
func TestReleasedLayout(t *testing.T) {
	want := "72766b6579000001" +
		"0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f20" +
		"aa010000000000000000000000000000" +
		"bb" + strings.Repeat("00", 31) +
		"0000000000000003" + "0018" + hex.EncodeToString([]byte("spiffe://example.org/kms"))
	if got := hex.EncodeToString(marshal(t, released())); got != want {
		t.Errorf("got\n%s, want\n%s", got, want)
	}
}

func TestReleasedRoundTrip(t *testing.T) {
	got, err := ParseReleased(marshal(t, released()))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(released(), got); diff != "" {
		t.Error(diff)
	}
}

func TestParseReleasedRefuses(t *testing.T) {
	good := marshal(t, released())
	change := func(at int, to ...byte) []byte {
		b := bytes.Clone(good)
		copy(b[at:], to)
		return b
	}
	for _, c := range []struct {
		name string
		data []byte
		want string
	}{
		{"empty", nil, "got 0 bytes"},
		{"short", good[:offKMSID-1], "got 97 bytes"},
		{"truncated", good[:len(good)-1], "KMS ID has 23 bytes, want 24"},
		{"trailing byte", append(bytes.Clone(good), 'x'), "KMS ID has 25 bytes, want 24"},
		{"too long", make([]byte, MaxReleasedSize+1), "got 2253 bytes"},
		{"magic", change(0, 'R'), "magic"},
		{"version", change(7, 3), "magic"},
		{"disk that says it is a volume", change(7, 2), "volume has 0 bytes"},
		{"no key", change(offKey, make([]byte, KeySize)...), "key is all zero"},
		{"no disk", change(offDiskUUID, make([]byte, 16)...), "disk_uuid is all zero"},
		{"no header pin", change(offHeaderSHA256, make([]byte, 32)...), "luks2_header_sha256 is all zero"},
		{"generation 0", change(offGeneration, make([]byte, 8)...), "generation is 0"},
		{"no SPIFFE ID", change(offKMSID, []byte("https:")...), "want a SPIFFE ID"},
		{"line break in SPIFFE ID", change(len(good)-1, '\n'), "want printable ASCII"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := ParseReleased(c.data); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v, want one with %q", err, c.want)
			}
		})
	}
}

func TestWipe(t *testing.T) {
	r := released()
	backing := r.Key[:]
	r.Wipe()
	if !bytes.Equal(backing, make([]byte, KeySize)) {
		t.Errorf("got %x after Wipe, want zeros", backing)
	}
}

func TestMessages(t *testing.T) {
	request := ReleaseRequest{Version: 1, Nonce: evidence.Nonce{1}, HPKEPublicKey: PublicKey{2}, Evidence: []byte("evidence")}
	got, err := Decode[ReleaseRequest](Encode(request))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(request, got); diff != "" {
		t.Error(diff)
	}
	request.Evidence = nil
	if _, err := Decode[ReleaseRequest](Encode(request)); err != nil {
		t.Errorf("without evidence: %v", err)
	}
	for _, code := range []Code{CodeMalformed, CodeDenied, CodeNonce, CodeBusy, CodeHeld, CodeUnavailable} {
		if _, err := Decode[ErrorReply](Encode(ErrorReply{1, code})); err != nil {
			t.Error(err)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	good := string(Encode(ReleaseRequest{Version: 1, Nonce: evidence.Nonce{1}, Evidence: []byte("evidence")}))
	replace := func(old, new string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("%q is not in %s", old, good)
		}
		return strings.Replace(good, old, new, 1)
	}
	for _, c := range []struct{ name, data, want string }{
		{"empty", "", "unexpected EOF"},
		{"version", replace(`"version":1`, `"version":2`), "version is 2, want 1"},
		{"white space", replace(`,"nonce"`, `, "nonce"`), "not canonical"},
		{"line break at the end", good + "\n", "not canonical"},
		{"other order", `{"nonce":"` + strings.Repeat("0", 64) + `","version":1,"hpke_public_key":"` + strings.Repeat("0", 64) + `","evidence":""}`, "not canonical"},
		{"other case", replace(`"nonce"`, `"Nonce"`), "unknown"},
		{"twice", replace(`"version":1`, `"version":1,"version":1`), "twice"},
		{"unknown", replace(`"version":1`, `"version":1,"key":""`), "unknown"},
		{"missing", replace(`"evidence":`, `"evidenc":`), "unknown"},
		{"null", replace(`"ZXZpZGVuY2U="`, `null`), "null"},
		{"base64 with trailing bits", replace(`ZXZpZGVuY2U=`, `ZXZpZGVuY2V=`), "not canonical"},
		{"base64 with line break", replace(`ZXZpZGVuY2U=`, `ZXZp\nZGVuY2U=`), "not canonical"},
		{"short nonce", replace(`"0100`, `"01`), "64 lower-case hex digits"},
		{"trailing value", good + "{}", "after the JSON value"},
		{"too large", replace(`ZXZpZGVuY2U=`, strings.Repeat("A", MaxRequestSize)), "want at most 98304"},
		{"too much evidence", replace(`ZXZpZGVuY2U=`, strings.Repeat("AAAA", MaxEvidenceSize/3+1)), "want at most 65536"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := Decode[ReleaseRequest]([]byte(c.data)); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v, want one with %q", err, c.want)
			}
		})
	}
	if _, err := Decode[ErrorReply]([]byte(`{"version":1,"error":"why not"}`)); err == nil {
		t.Error("got no error for an unknown error code")
	}
}

func TestSeal(t *testing.T) {
	r, disk, nonce := released(), released().Header.DiskUUID, evidence.Nonce{7}
	recipient, err := NewRecipient()
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := Seal(recipient.PublicKey(), nonce, disk, r)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(sealed, r.Key[:]) {
		t.Error("the sealed reply shows the key")
	}
	got, err := recipient.Open(nonce, disk, sealed)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(r, got); diff != "" {
		t.Error(diff)
	}

	stranger, err := NewRecipient()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stranger.Open(nonce, disk, sealed); err == nil {
		t.Error("another recipient opened it")
	}
	if _, err := recipient.Open(evidence.Nonce{8}, disk, sealed); err == nil {
		t.Error("it opened as the reply to another nonce")
	}
	if _, err := recipient.Open(nonce, pins.UUID{1}, sealed); err == nil {
		t.Error("it opened as the reply for another disk")
	}
	for i := range sealed {
		changed := bytes.Clone(sealed)
		changed[i] ^= 1
		if _, err := recipient.Open(nonce, disk, changed); err == nil {
			t.Fatalf("it opened with byte %d changed", i)
		}
	}
	if _, err := Seal(recipient.PublicKey(), nonce, pins.UUID{1}, r); err == nil {
		t.Error("sealed a key with the header pin of another disk")
	}
	if _, err := Seal(PublicKey{}, nonce, disk, r); err == nil {
		t.Error("sealed to a public key of low order")
	}
}

// TestExact: what Encode writes of the largest message is read without a JSON decoder.
func TestExact(t *testing.T) {
	for _, data := range [][]byte{nil, {1}, bytes.Repeat([]byte{0xfb}, 5000)} {
		want := ReleaseRequest{1, evidence.Nonce{2}, PublicKey{3}, data}
		var got ReleaseRequest
		if !got.exact(Encode(want)) || !bytes.Equal(Encode(got), Encode(want)) {
			t.Errorf("got %x, want %x", got, want)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(Encode(NonceRequest{1}))
	f.Add(Encode(NonceReply{1, evidence.Nonce{2}}))
	f.Add(Encode(ReleaseRequest{1, evidence.Nonce{2}, PublicKey{3}, []byte("evidence")}))
	f.Add(Encode(ReleaseReply{1, []byte("sealed")}))
	f.Add(Encode(ErrorReply{1, CodeDenied}))
	f.Add(marshal(f, released()))
	f.Fuzz(func(t *testing.T, data []byte) {
		again[NonceRequest](t, data)
		again[NonceReply](t, data)
		again[ReleaseRequest](t, data)
		again[ReleaseReply](t, data)
		again[ErrorReply](t, data)
		if r, err := ParseReleased(data); err == nil && !bytes.Equal(marshal(t, r), data) {
			t.Errorf("ParseReleased takes %x, which Marshal does not write", data)
		}
	})
}

// again checks that what decodes encodes to the same bytes.
func again[M Message](t *testing.T, data []byte) {
	if m, err := Decode[M](data); err == nil && !bytes.Equal(Encode(m), data) {
		t.Errorf("Decode takes %q, which Encode does not write", data)
	}
}

func BenchmarkSeal(b *testing.B) {
	recipient, err := NewRecipient()
	if err != nil {
		b.Fatal(err)
	}
	r := released()
	var nonce evidence.Nonce
	rand.Read(nonce[:])
	for b.Loop() {
		if _, err := Seal(recipient.PublicKey(), nonce, r.Header.DiskUUID, r); err != nil {
			b.Fatal(err)
		}
	}
}
