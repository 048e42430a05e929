package tlogdir

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// Tree is the content of a checkpoint.
type Tree struct {
	Origin string // the log's name
	Size   int64  // leaves
	Root   tlog.Hash
}

// emptyRoot is the root of a tree without leaves: SHA-256 of nothing (RFC 6962, 2.1).
var emptyRoot = tlog.Hash{0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24,
	0x27, 0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55}

// text is a checkpoint's text: three lines.
func (t Tree) text() string {
	root := t.Root
	if t.Size == 0 {
		root = emptyRoot
	}
	return fmt.Sprintf("%s\n%d\n%s\n", t.Origin, t.Size, base64.StdEncoding.EncodeToString(root[:]))
}

// Sign writes the checkpoint of a tree.
func Sign(t Tree, signer note.Signer) ([]byte, error) {
	if t.Origin != signer.Name() {
		return nil, fmt.Errorf("signing a checkpoint of %q with the key of %q", t.Origin, signer.Name())
	}
	signed, err := note.Sign(&note.Note{Text: t.text()}, signer)
	if err != nil {
		return nil, fmt.Errorf("signing a checkpoint: %w", err)
	}
	return signed, nil
}

// OpenCheckpoint verifies a checkpoint. It must have the log's signature, and the signatures of
// all given witnesses.
func OpenCheckpoint(signed []byte, log note.Verifier, witnesses ...note.Verifier) (Tree, error) {
	n, err := note.Open(signed, note.VerifierList(append([]note.Verifier{log}, witnesses...)...))
	if err != nil {
		return Tree{}, fmt.Errorf("verifying a checkpoint: %w", err)
	}
	for _, want := range append([]note.Verifier{log}, witnesses...) {
		if !signedBy(n, want) {
			return Tree{}, fmt.Errorf("verifying a checkpoint: signature of %s+%08x is missing", want.Name(), want.KeyHash())
		}
	}
	t, err := parse(n.Text)
	if err != nil {
		return Tree{}, fmt.Errorf("verifying a checkpoint: %w", err)
	}
	if t.Origin != log.Name() {
		return Tree{}, fmt.Errorf("verifying a checkpoint: its origin is %q, want %q", t.Origin, log.Name())
	}
	return t, nil
}

func signedBy(n *note.Note, v note.Verifier) bool {
	for _, s := range n.Sigs {
		if s.Name == v.Name() && s.Hash == v.KeyHash() {
			return true
		}
	}
	return false
}

func parse(text string) (Tree, error) {
	lines := strings.Split(text, "\n")
	if len(lines) < 4 || lines[len(lines)-1] != "" {
		return Tree{}, errors.New("it does not have three lines")
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || size < 0 {
		return Tree{}, fmt.Errorf("size is %.40q, want a number", lines[1])
	}
	root, err := base64.StdEncoding.DecodeString(lines[2])
	if err != nil || len(root) != tlog.HashSize {
		return Tree{}, fmt.Errorf("root is %.80q, want %d bytes in base64", lines[2], tlog.HashSize)
	}
	t := Tree{Origin: lines[0], Size: size, Root: tlog.Hash(root)}
	if size == 0 {
		if t.Root != emptyRoot {
			return Tree{}, errors.New("root of an empty tree is not the hash of nothing")
		}
		t.Root = tlog.Hash{}
	}
	if t.text() != text {
		return Tree{}, errors.New("form is not canonical")
	}
	return t, nil
}

// algCosignature is the type of a witness's key (https://c2sp.org/tlog-cosignature). Its
// signature has a time, and says that the witness saw this tree grow from all trees before it.
const algCosignature = 4

// NewWitness reads a witness's verification key, NAME+HASH+KEY.
func NewWitness(vkey string) (note.Verifier, error) {
	name, rest, _ := strings.Cut(vkey, "+")
	hash, key64, _ := strings.Cut(rest, "+")
	key, err := base64.StdEncoding.DecodeString(key64)
	if err != nil || len(hash) != 8 || len(key) != 1+ed25519.PublicKeySize || key[0] != algCosignature {
		return nil, fmt.Errorf("witness key is %q, want NAME+HASH+KEY of type %d", vkey, algCosignature)
	}
	// The library checks the name and the hash, but knows only the type of plain signatures.
	plain, err := note.NewEd25519VerifierKey(name, ed25519.PublicKey(key[1:]))
	if err != nil {
		return nil, fmt.Errorf("witness key %q: %w", vkey, err)
	}
	if _, err := note.NewVerifier(plain); err != nil {
		return nil, fmt.Errorf("witness key %q: %w", vkey, err)
	}
	w := witness{name: name, key: ed25519.PublicKey(key[1:])}
	w.hash = keyHash(name, key)
	if got := fmt.Sprintf("%08x", w.hash); got != hash {
		return nil, fmt.Errorf("witness key %q: hash is %s, want %s", vkey, hash, got)
	}
	return w, nil
}

// WitnessKey writes what NewWitness reads.
func WitnessKey(name string, key ed25519.PublicKey) string {
	typed := append([]byte{algCosignature}, key...)
	return fmt.Sprintf("%s+%08x+%s", name, keyHash(name, typed), base64.StdEncoding.EncodeToString(typed))
}

type witness struct {
	name string
	hash uint32
	key  ed25519.PublicKey
}

func (w witness) Name() string    { return w.name }
func (w witness) KeyHash() uint32 { return w.hash }

func (w witness) Verify(text, sig []byte) bool {
	if len(sig) != 8+ed25519.SignatureSize {
		return false
	}
	return ed25519.Verify(w.key, cosigned(binary.BigEndian.Uint64(sig), text), sig[8:])
}

// cosigned is the text that a witness signs: a header, the time in seconds since 1970, and the
// checkpoint's text.
func cosigned(seconds uint64, text []byte) []byte {
	return fmt.Appendf(nil, "cosignature/v1\ntime %d\n%s", seconds, text)
}

// NewKey makes a log's key pair.
func NewKey(rand io.Reader, origin string) (private, public string, err error) {
	private, public, err = note.GenerateKey(rand, origin)
	if err != nil {
		return "", "", fmt.Errorf("making the log's key: %w", err)
	}
	return private, public, nil
}

// keyHash is a note key's hash (https://c2sp.org/signed-note).
func keyHash(name string, typed []byte) uint32 {
	sum := sha256.Sum256(append([]byte(name+"\n"), typed...))
	return binary.BigEndian.Uint32(sum[:])
}
