package idblock

import (
	"bytes"
	"crypto/ecdsa"
	"encoding/base64"
	"encoding/binary"
	"fmt"

	"github.com/rootvouch/rootvouch/snp"
)

// AuthSize is the size of the ID authentication information in bytes (56860,
// section 8.18, "Layout of the ID Authentication Information Structure").
//
//	0x000    4 ID_KEY_ALGO, 1 (ECDSA P-384 with SHA-384)
//	0x004    4 AUTHOR_KEY_ALGO, 1, or 0 without an author key
//	0x008   56 zero
//	0x040  512 ID_BLOCK_SIG, by the ID key
//	0x240 1028 ID_KEY
//	0x644   60 zero
//	0x680  512 ID_KEY_SIG, by the author key over ID_KEY
//	0x880 1028 AUTHOR_KEY
//	0xc84  892 zero
//
// Without an author key its fields are zero, and the launcher has to say so
// (AUTHOR_KEY_EN; QEMU: author-key-enabled).
const AuthSize = 0x1000

const (
	blockSigAt   = 0x040
	idKeyAt      = 0x240
	idKeySigAt   = 0x680
	authorKeyAt  = 0x880
	authorKeyEnd = authorKeyAt + keySize
)

// Signed is an ID block with its authentication information, as a launcher hands
// both to the AMD-SP. Its signatures are verified.
type Signed struct {
	Block     Block
	IDKey     *ecdsa.PublicKey
	AuthorKey *ecdsa.PublicKey // nil: none
	auth      []byte
}

// Sign signs b with the ID key, and the ID key with the author key unless that
// is nil. Both are P-384 keys. The same arguments give the same bytes.
func Sign(b Block, idKey, authorKey *ecdsa.PrivateKey) (*Signed, error) {
	if err := b.Check(); err != nil {
		return nil, err
	}
	auth := make([]byte, AuthSize)
	if err := signInto(auth[blockSigAt:], auth[idKeyAt:], idKey, b.Marshal()); err != nil {
		return nil, fmt.Errorf("signing ID block: %w", err)
	}
	binary.LittleEndian.PutUint32(auth, algorithm)
	if authorKey != nil {
		if err := signInto(auth[idKeySigAt:], auth[authorKeyAt:], authorKey, auth[idKeyAt:idKeyAt+keySize]); err != nil {
			return nil, fmt.Errorf("signing ID key: %w", err)
		}
		binary.LittleEndian.PutUint32(auth[4:], algorithm)
	}
	return Parse(b.Marshal(), auth) // checks our own signatures
}

// signInto writes the public key of key and its signature of data.
func signInto(signature, public []byte, key *ecdsa.PrivateKey, data []byte) error {
	pub, err := marshalKey(&key.PublicKey)
	if err != nil {
		return err
	}
	sig, err := sign(key, data)
	if err != nil {
		return err
	}
	copy(signature, sig)
	copy(public, pub)
	return nil
}

// Parse reads an ID block and its authentication information and checks every
// signature. If a signature does not verify, the error matches [ErrSignature]. The
// caller must judge whether it accepts the keys.
func Parse(block, auth []byte) (*Signed, error) {
	b, err := ParseBlock(block)
	if err != nil {
		return nil, err
	}
	s := &Signed{Block: b, auth: bytes.Clone(auth)}
	if err := s.parseAuth(block); err != nil {
		return nil, fmt.Errorf("parsing ID authentication information: %w", err)
	}
	return s, nil
}

func (s *Signed) parseAuth(block []byte) (err error) {
	auth := s.auth
	if len(auth) != AuthSize {
		return fmt.Errorf("%d bytes, want %d", len(auth), AuthSize)
	}
	for _, r := range [][2]int{{0x008, blockSigAt}, {idKeyAt + keySize, idKeySigAt}, {authorKeyEnd, AuthSize}} {
		if i := nonZero(auth[r[0]:r[1]]); i >= 0 {
			return fmt.Errorf("reserved byte %#x is not zero", r[0]+i)
		}
	}
	if algo := binary.LittleEndian.Uint32(auth); algo != algorithm {
		return fmt.Errorf("ID_KEY_ALGO is %d, want %d", algo, algorithm)
	}
	if s.IDKey, err = parseKey(auth[idKeyAt:]); err != nil {
		return fmt.Errorf("ID_KEY: %w", err)
	}
	if err := verify(s.IDKey, block, auth[blockSigAt:]); err != nil {
		return fmt.Errorf("ID_BLOCK_SIG: %w", err)
	}
	switch algo := binary.LittleEndian.Uint32(auth[4:]); algo {
	case 0:
		if i := nonZero(auth[idKeySigAt:authorKeyEnd]); i >= 0 {
			return fmt.Errorf("AUTHOR_KEY_ALGO is 0, but byte %#x of the author key is not zero", idKeySigAt+i)
		}
		return nil
	case algorithm:
	default:
		return fmt.Errorf("AUTHOR_KEY_ALGO is %d, want 0 or %d", algo, algorithm)
	}
	if s.AuthorKey, err = parseKey(auth[authorKeyAt:]); err != nil {
		return fmt.Errorf("AUTHOR_KEY: %w", err)
	}
	if err := verify(s.AuthorKey, auth[idKeyAt:idKeyAt+keySize], auth[idKeySigAt:]); err != nil {
		return fmt.Errorf("ID_KEY_SIG: %w", err)
	}
	return nil
}

// Auth returns the ID authentication information in its AuthSize bytes.
func (s *Signed) Auth() []byte { return bytes.Clone(s.auth) }

// IDKeyDigest returns the ID_KEY_DIGEST of the guest's reports.
func (s *Signed) IDKeyDigest() snp.KeyDigest { return mustDigest(s.IDKey) }

// AuthorKeyDigest returns the AUTHOR_KEY_DIGEST of the guest's reports, all zero
// without an author key.
func (s *Signed) AuthorKeyDigest() snp.KeyDigest {
	if s.AuthorKey == nil {
		return snp.KeyDigest{}
	}
	return mustDigest(s.AuthorKey)
}

func mustDigest(pub *ecdsa.PublicKey) snp.KeyDigest {
	d, err := KeyDigest(pub)
	if err != nil {
		panic(fmt.Sprintf("idblock: internal error: digest of a checked key: %v", err))
	}
	return d
}

// QEMU returns the properties of QEMU's sev-snp-guest object.
func (s *Signed) QEMU() string {
	return fmt.Sprintf("id-block=%s,id-auth=%s,author-key-enabled=%t", base64.StdEncoding.EncodeToString(s.Block.Marshal()),
		base64.StdEncoding.EncodeToString(s.auth), s.AuthorKey != nil)
}
