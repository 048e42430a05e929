package luks2

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/xts"
)

// Params are the values in which two headers of a profile differ.
type Params struct {
	UUID       pins.UUID
	SequenceID uint64 // at least 1; a rewritten header should have a higher one
	VolumeKey  []byte // VolumeKeySize bytes; AuthenticatedKeySize where Authenticated
	Passphrase []byte // PassphraseSize random bytes
	Random     io.Reader
	// Authenticated makes the header of a volume that is written, not of a disk.
	Authenticated bool
}

func (p Params) kind() kind {
	if p.Authenticated {
		return authenticated()
	}
	return disk()
}

// Build writes a header region of HeaderSize bytes. It takes salts and the
// anti-forensic stripes from p.Random (256 KiB), in a fixed order: the same
// randomness gives the same header.
func Build(p Params) ([]byte, error) {
	header, err := build(p)
	if err != nil {
		return nil, fmt.Errorf("building LUKS2 header: %w", err)
	}
	return header, nil
}

func build(p Params) ([]byte, error) {
	switch {
	case p.UUID == pins.UUID{}:
		return nil, errors.New("UUID is all zero")
	case p.SequenceID == 0:
		return nil, errors.New("seqid is 0, want at least 1")
	case len(p.VolumeKey) != p.kind().keySize:
		return nil, fmt.Errorf("volume key has %d bytes, want %d", len(p.VolumeKey), p.kind().keySize)
	case len(p.Passphrase) != PassphraseSize:
		return nil, fmt.Errorf("passphrase has %d bytes, want %d", len(p.Passphrase), PassphraseSize)
	}
	if _, err := xts.NewCipher(p.VolumeKey[:VolumeKeySize]); err != nil {
		return nil, fmt.Errorf("volume key: %w", err)
	}
	salts := make([]byte, 2*saltSize+2*(atUUID-atSalt))
	if _, err := io.ReadFull(p.Random, salts); err != nil {
		return nil, fmt.Errorf("reading randomness for salts: %w", err)
	}
	slotSalt, digestSalt := salts[:saltSize], salts[saltSize:2*saltSize]
	primarySalt, secondarySalt := salts[2*saltSize:][:atUUID-atSalt], salts[2*saltSize+atUUID-atSalt:]

	header := make([]byte, HeaderSize)
	area := header[areaOffset:][:p.kind().areaUsed()]
	if err := fillKeyslot(area, p, slotSalt); err != nil {
		return nil, err
	}
	text := profile(p.kind(), slotSalt, digestSalt, deriveKey(p.VolumeKey, digestSalt, digestSize)).encode()
	if len(text) >= jsonSize {
		panic(fmt.Sprintf("luks2: internal error: JSON of %d bytes", len(text)))
	}
	c := copyOf{p.UUID, p.SequenceID, text}
	writeCopy(header[:metadataSize], c, primarySalt, 0)
	writeCopy(header[metadataSize:areaOffset], c, secondarySalt, metadataSize)
	return header, nil
}

// fillKeyslot splits and encrypts the volume key into area.
func fillKeyslot(area []byte, p Params, salt []byte) error {
	// The split is made in a buffer of its own: the header must never hold it.
	split := make([]byte, len(area))
	defer clear(split)
	if _, err := io.ReadFull(p.Random, split[:len(area)-len(p.VolumeKey)]); err != nil {
		return fmt.Errorf("reading randomness for stripes: %w", err)
	}
	splitKey(split, p.VolumeKey)
	areaKey := deriveKey(p.Passphrase, salt, VolumeKeySize)
	defer clear(areaKey)
	cipher, err := xts.NewCipher(areaKey)
	if err != nil {
		return err
	}
	defer cipher.Wipe()
	cipher.Encrypt(area, split, 0, areaSector)
	return nil
}

// profile is the JSON of every header of a kind.
func profile(k kind, slotSalt, digestSalt, volumeKeyDigest []byte) metadata {
	return metadata{
		Keyslots: map[string]keyslot{"0": {
			Type:    "luks2",
			KeySize: uint32(k.keySize),
			AF:      af{Type: "luks1", Stripes: stripes, Hash: "sha256"},
			Area:    area{Type: "raw", Offset: decimal(areaOffset), Size: decimal(uint64(k.areaSize())), Encryption: Cipher, KeySize: VolumeKeySize},
			KDF:     kdf{Type: "pbkdf2", Hash: "sha256", Iterations: iterations, Salt: base64.StdEncoding.EncodeToString(slotSalt)},
		}},
		Segments: map[string]segment{"0": {
			Type: "crypt", Offset: decimal(HeaderSize), Size: "dynamic", IVTweak: "0",
			Encryption: Cipher, SectorSize: SectorSize, Integrity: k.integrity,
		}},
		Digests: map[string]digest{"0": {
			Type: "pbkdf2", Keyslots: []string{"0"}, Segments: []string{"0"},
			Hash: "sha256", Iterations: iterations,
			Salt:   base64.StdEncoding.EncodeToString(digestSalt),
			Digest: base64.StdEncoding.EncodeToString(volumeKeyDigest),
		}},
		Config: config{JSONSize: decimal(jsonSize), KeyslotsSize: decimal(keyslotsSize)},
	}
}

func decimal(n uint64) string { return strconv.FormatUint(n, 10) }
