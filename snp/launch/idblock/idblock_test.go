package idblock_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rootvouch/rootvouch/snp"
	"github.com/rootvouch/rootvouch/snp/launch/idblock"
)

func read(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func mustKey(t testing.TB, name string) *ecdsa.PrivateKey {
	t.Helper()
	key, err := idblock.ParsePrivateKey(read(t, name))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func block() idblock.Block {
	return idblock.Block{LaunchDigest: snp.Measurement{1}, FamilyID: snp.GuestID{2}, ImageID: snp.GuestID{3}, GuestSVN: 4, Policy: 0x30000}
}

// TestPublished makes the same ID block as another program with the same keys.
func TestPublished(t *testing.T) {
	var want struct {
		LaunchDigest    snp.Measurement `json:"launch_digest"`
		Policy          string
		Block           string        `json:"id_block"`
		IDKeyDigest     snp.KeyDigest `json:"id_key_digest"`
		AuthorKeyDigest snp.KeyDigest `json:"author_key_digest"`
	}
	if err := json.Unmarshal(read(t, "figures.json"), &want); err != nil {
		t.Fatal(err)
	}
	policy, err := strconv.ParseUint(want.Policy, 0, 64)
	if err != nil {
		t.Fatal(err)
	}
	b := idblock.Block{LaunchDigest: want.LaunchDigest, Policy: snp.Policy(policy)}
	s, err := idblock.Sign(b, mustKey(t, "id-key.pem"), mustKey(t, "author-key.pem"))
	if err != nil {
		t.Fatal(err)
	}
	if got := hex.EncodeToString(s.Block.Marshal()); got != want.Block {
		t.Errorf("ID block is %s\nwant %s", got, want.Block)
	}
	if got := s.IDKeyDigest(); got != want.IDKeyDigest {
		t.Errorf("ID key digest is %v, want %v", got, want.IDKeyDigest)
	}
	if got := s.AuthorKeyDigest(); got != want.AuthorKeyDigest {
		t.Errorf("author key digest is %v, want %v", got, want.AuthorKeyDigest)
	}
}

func TestSign(t *testing.T) {
	id, author := newKey(t), newKey(t)
	for _, authorKey := range []*ecdsa.PrivateKey{nil, author} {
		s, err := idblock.Sign(block(), id, authorKey)
		if err != nil {
			t.Fatal(err)
		}
		again, err := idblock.Sign(block(), id, authorKey)
		if err != nil || !bytes.Equal(again.Auth(), s.Auth()) {
			t.Errorf("signing twice: got other bytes or %v", err)
		}
		parsed, err := idblock.Parse(s.Block.Marshal(), s.Auth())
		if err != nil || parsed.Block != block() || !parsed.IDKey.Equal(&id.PublicKey) {
			t.Errorf("parsing what was signed: got %+v, %v", parsed, err)
		}
		if got := parsed.AuthorKeyDigest() != (snp.KeyDigest{}); got != (authorKey != nil) {
			t.Errorf("author key digest is there: %v, want %v", got, authorKey != nil)
		}
		want := "author-key-enabled=" + strconv.FormatBool(authorKey != nil)
		if !strings.HasSuffix(s.QEMU(), want) {
			t.Errorf("QEMU properties are %q, want %s at the end", s.QEMU(), want)
		}
	}
}

func TestSignRefusals(t *testing.T) {
	key := newKey(t)
	for name, b := range map[string]idblock.Block{
		"no digest":       {Policy: 0x30000},
		"no policy":       {LaunchDigest: snp.Measurement{1}},
		"reserved policy": {LaunchDigest: snp.Measurement{1}, Policy: 0x30000 | 1<<63},
	} {
		if _, err := idblock.Sign(b, key, nil); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := idblock.Sign(block(), other, nil); err == nil || !strings.Contains(err.Error(), "P-256") {
		t.Errorf("ID key on P-256: got %v", err)
	}
	if _, err := idblock.Sign(block(), key, other); err == nil || !strings.Contains(err.Error(), "P-256") {
		t.Errorf("author key on P-256: got %v", err)
	}
}

// TestParseRefusals flips one byte in every field.
func TestParseRefusals(t *testing.T) {
	s, err := idblock.Sign(block(), newKey(t), newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	none, err := idblock.Sign(block(), newKey(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name      string
		block     int // offset of the byte to flip, or -1
		auth      int
		noAuthor  bool
		signature bool // the error must be ErrSignature
		want      string
	}{
		{"LD", 0x01, -1, false, true, "ID_BLOCK_SIG"},
		{"FAMILY_ID", 0x30, -1, false, true, "ID_BLOCK_SIG"},
		{"IMAGE_ID", 0x4f, -1, false, true, "ID_BLOCK_SIG"},
		{"VERSION", 0x50, -1, false, false, "VERSION is 0"},
		{"GUEST_SVN", 0x54, -1, false, true, "ID_BLOCK_SIG"},
		{"POLICY", 0x58, -1, false, true, "ID_BLOCK_SIG"},
		{"ID_KEY_ALGO", -1, 0x000, false, false, "ID_KEY_ALGO is 0"},
		{"AUTHOR_KEY_ALGO", -1, 0x004, false, false, "byte 0x680 of the author key"},
		{"AUTHOR_KEY_ALGO without author key", -1, 0x004, true, false, "AUTHOR_KEY: CURVE is 0"},
		{"reserved 0x8", -1, 0x008, false, false, "reserved byte 0x8 "},
		{"R", -1, 0x040, false, true, "ID_BLOCK_SIG"},
		{"S", -1, 0x088, false, true, "ID_BLOCK_SIG"},
		{"padding of S", -1, 0x0cf, false, true, "ID_BLOCK_SIG"},
		{"reserved in signature", -1, 0x0d0, false, true, "reserved byte 0x90 of the signature"},
		{"CURVE", -1, 0x240, false, false, "CURVE is 3"},
		{"QX", -1, 0x244, false, false, "no point"},
		{"padding of QY", -1, 0x2d3, false, false, "QY has"},
		{"reserved in key", -1, 0x2d4, false, false, "reserved byte 0x94 of the key"},
		{"reserved 0x644", -1, 0x644, false, false, "reserved byte 0x644 "},
		{"ID_KEY_SIG", -1, 0x680, false, true, "ID_KEY_SIG"},
		{"AUTHOR_KEY", -1, 0x884, false, false, "AUTHOR_KEY: QX, QY are no point"},
		{"reserved 0xc84", -1, 0xc84, false, false, "reserved byte 0xc84 "},
		{"last byte", -1, 0xfff, false, false, "reserved byte 0xfff "},
	} {
		from := s
		if c.noAuthor {
			from = none
		}
		b, auth := from.Block.Marshal(), from.Auth()
		if c.block >= 0 {
			b[c.block] ^= 1
		}
		if c.auth >= 0 {
			auth[c.auth] ^= 1
		}
		_, err := idblock.Parse(b, auth)
		if err == nil || !strings.Contains(err.Error(), c.want) || errors.Is(err, idblock.ErrSignature) != c.signature {
			t.Errorf("%s: got %v, want %q", c.name, err, c.want)
		}
	}
	if _, err := idblock.Parse(s.Block.Marshal()[1:], s.Auth()); err == nil {
		t.Error("short block: got no error")
	}
	if _, err := idblock.Parse(s.Block.Marshal(), append(s.Auth(), 0)); err == nil {
		t.Error("long authentication information: got no error")
	}
}

func TestParsePrivateKey(t *testing.T) {
	key := newKey(t)
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	sec1, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	params := pem.EncodeToMemory(&pem.Block{Type: "EC PARAMETERS", Bytes: []byte{5, 0}})
	for name, data := range map[string][]byte{
		"PKCS #8":         pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}),
		"SEC 1":           pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: sec1}),
		"with parameters": append(params, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: sec1})...),
	} {
		if got, err := idblock.ParsePrivateKey(data); err != nil || !got.Equal(key) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	small, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p256, err := x509.MarshalECPrivateKey(small)
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{
		"nothing":        nil,
		"a certificate":  pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pkcs8}),
		"encrypted":      pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: pkcs8}),
		"P-256":          pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: p256}),
		"junk":           pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("junk")}),
		"only parameter": params,
	} {
		_, err := idblock.ParsePrivateKey(data)
		if err == nil || strings.Contains(err.Error(), string(pkcs8)) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// FuzzParse checks that every parsed block encodes to the same bytes.
func FuzzParse(f *testing.F) {
	s, err := idblock.Sign(block(), newKey(f), newKey(f))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(s.Block.Marshal(), s.Auth())
	f.Add([]byte{}, []byte{})
	f.Fuzz(func(t *testing.T, block, auth []byte) {
		s, err := idblock.Parse(block, auth)
		if err == nil && (!bytes.Equal(s.Block.Marshal(), block) || !bytes.Equal(s.Auth(), auth)) {
			t.Error("parsed bytes re-encode to others")
		}
	})
}
