package luks2

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"

	"github.com/rootvouch/rootvouch/internal/strictjson"
)

// Parse reads the header region of a disk: its first HeaderSize bytes. It reads from
// memory only, so the caller uses exactly the bytes that Parse checked. The container
// keeps no reference to header.
func Parse(header []byte) (*Container, error) { return parseAs(disk(), header) }

// ParseAuthenticated is Parse for a volume.
func ParseAuthenticated(header []byte) (*Container, error) { return parseAs(authenticated(), header) }

func parseAs(k kind, header []byte) (*Container, error) {
	c, err := parse(k, header)
	if err != nil {
		return nil, fmt.Errorf("parsing LUKS2 header: %w", err)
	}
	return c, nil
}

func parse(k kind, header []byte) (*Container, error) {
	if len(header) != HeaderSize {
		return nil, fmt.Errorf("got %d bytes, want %d", len(header), HeaderSize)
	}
	primary, err := parseCopy(header[:metadataSize], 0)
	if err != nil {
		return nil, fmt.Errorf("primary header: %w", err)
	}
	secondary, err := parseCopy(header[metadataSize:areaOffset], metadataSize)
	if err != nil {
		return nil, fmt.Errorf("secondary header: %w", err)
	}
	// cryptsetup takes the copy with the higher seqid; two readers could see
	// two headers.
	switch {
	case primary.sequenceID != secondary.sequenceID:
		return nil, fmt.Errorf("seqid is %d in the primary and %d in the secondary header", primary.sequenceID, secondary.sequenceID)
	case primary.uuid != secondary.uuid:
		return nil, fmt.Errorf("uuid is %s in the primary and %s in the secondary header", primary.uuid, secondary.uuid)
	case !bytes.Equal(primary.json, secondary.json):
		return nil, fmt.Errorf("JSON area of primary and secondary header: %w", differs(secondary.json, primary.json))
	}
	var m metadata
	if err := strictjson.Unmarshal(primary.json, &m); err != nil {
		err = fmt.Errorf("JSON area: %w", err)
		if other := otherTypes(primary.json); other != nil {
			err = fmt.Errorf("%w (%w)", other, err)
		}
		return nil, err
	}
	if err := m.check(k); err != nil {
		return nil, err
	}
	if want := m.encode(); !bytes.Equal(want, primary.json) {
		return nil, fmt.Errorf("JSON area is not in canonical form: %w", differs(primary.json, want))
	}
	return &Container{
		UUID:          primary.uuid,
		SequenceID:    primary.sequenceID,
		PayloadOffset: HeaderSize,
		SectorSize:    SectorSize,
		kind:          k,
		slot: keyslotSecrets{
			salt: [saltSize]byte(mustBytes(m.Keyslots["0"].KDF.Salt)),
			area: bytes.Clone(header[areaOffset:][:k.areaUsed()]),
		},
		digest: pbkdf2Digest{
			salt:  [saltSize]byte(mustBytes(m.Digests["0"].Salt)),
			value: [digestSize]byte(mustBytes(m.Digests["0"].Digest)),
		},
	}, nil
}

// check compares m with the profile. It checks the algorithms first: a header that
// weakens the encryption gets an error that names the weak algorithm.
func (m metadata) check(want kind) error {
	if len(m.Segments) != 1 {
		return fmt.Errorf("got %d segments, want 1", len(m.Segments))
	}
	if len(m.Keyslots) != 1 {
		return fmt.Errorf("got %d keyslots, want 1", len(m.Keyslots))
	}
	if len(m.Digests) != 1 {
		return fmt.Errorf("got %d digests, want 1", len(m.Digests))
	}
	s, ok := m.Segments["0"]
	if !ok {
		return errors.New(`segments has no member "0"`)
	}
	k, ok := m.Keyslots["0"]
	if !ok {
		return errors.New(`keyslots has no member "0"`)
	}
	d, ok := m.Digests["0"]
	if !ok {
		return errors.New(`digests has no member "0"`)
	}
	return first(
		// First the algorithms ...
		is("segments.0.type", s.Type, "crypt"),
		is("segments.0.encryption", s.Encryption, Cipher),
		isIntegrity(s.Integrity, want.integrity),
		is("keyslots.0.type", k.Type, "luks2"),
		is("keyslots.0.area.type", k.Area.Type, "raw"),
		is("keyslots.0.area.encryption", k.Area.Encryption, Cipher),
		is("keyslots.0.af.type", k.AF.Type, "luks1"),
		is("keyslots.0.af.hash", k.AF.Hash, "sha256"),
		is("keyslots.0.kdf.type", k.KDF.Type, "pbkdf2"),
		is("keyslots.0.kdf.hash", k.KDF.Hash, "sha256"),
		is("keyslots.0.kdf.iterations", k.KDF.Iterations, iterations),
		is("digests.0.type", d.Type, "pbkdf2"),
		is("digests.0.hash", d.Hash, "sha256"),
		is("digests.0.iterations", d.Iterations, iterations),
		isList("digests.0.keyslots", d.Keyslots),
		isList("digests.0.segments", d.Segments),
		// ... then the numbers.
		is("segments.0.sector_size", s.SectorSize, SectorSize),
		is("segments.0.offset", s.Offset, decimal(HeaderSize)),
		is("segments.0.size", s.Size, "dynamic"),
		is("segments.0.iv_tweak", s.IVTweak, "0"),
		is("keyslots.0.key_size", k.KeySize, uint32(want.keySize)),
		is("keyslots.0.area.key_size", k.Area.KeySize, VolumeKeySize),
		is("keyslots.0.area.offset", k.Area.Offset, decimal(areaOffset)),
		is("keyslots.0.area.size", k.Area.Size, decimal(uint64(want.areaSize()))),
		is("keyslots.0.af.stripes", k.AF.Stripes, stripes),
		is("config.json_size", m.Config.JSONSize, decimal(jsonSize)),
		is("config.keyslots_size", m.Config.KeyslotsSize, decimal(keyslotsSize)),
		isBytes("keyslots.0.kdf.salt", k.KDF.Salt, saltSize),
		isBytes("digests.0.salt", d.Salt, saltSize),
		isBytes("digests.0.digest", d.Digest, digestSize),
	)
}

// differs says where two unequal texts begin to differ.
func differs(got, want []byte) error {
	const shown = 24 // bytes
	at := 0
	for at < min(len(got), len(want)) && got[at] == want[at] {
		at++
	}
	return fmt.Errorf("at byte %d got %q, want %q", at, got[at:min(len(got), at+shown)], want[at:min(len(want), at+shown)])
}

// first returns the first error.
func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func is[T comparable](name string, got, want T) error {
	if got == want {
		return nil
	}
	if text, ok := any(got).(string); ok {
		return fmt.Errorf("%s is %q, want %q", name, text, any(want))
	}
	return fmt.Errorf("%s is %v, want %v", name, got, want)
}

func isIntegrity(got, want *integrity) error {
	switch {
	case got == nil && want == nil:
		return nil
	case got == nil:
		return fmt.Errorf("segments.0.integrity is missing, want %s", want.Type)
	case want == nil:
		return fmt.Errorf("segments.0.integrity is %q, want none in a disk's header", got.Type)
	}
	return first(
		is("segments.0.integrity.type", got.Type, want.Type),
		is("segments.0.integrity.journal_encryption", got.JournalEncryption, want.JournalEncryption),
		is("segments.0.integrity.journal_integrity", got.JournalIntegrity, want.JournalIntegrity))
}

func isList(name string, got []string) error {
	if !slices.Equal(got, []string{"0"}) {
		return fmt.Errorf(`%s is %q, want ["0"]`, name, got)
	}
	return nil
}

// isBytes wants the one base64 spelling of so many bytes.
func isBytes(name, got string, want int) error {
	data, err := base64.StdEncoding.Strict().DecodeString(got)
	if err != nil || base64.StdEncoding.EncodeToString(data) != got {
		return fmt.Errorf("%s is %q, want canonical base64", name, got)
	}
	if len(data) != want {
		return fmt.Errorf("%s has %d bytes, want %d", name, len(data), want)
	}
	return nil
}

// mustBytes decodes what isBytes accepted.
func mustBytes(text string) []byte {
	data, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		panic("luks2: internal error: " + err.Error())
	}
	return data
}
