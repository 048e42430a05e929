package luks2

import (
	"bytes"
	"crypto/pbkdf2"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"testing"
)

func TestRoundTrip(t *testing.T) {
	p := sampleParams()
	header := mustBuild(t, p)
	c, err := Parse(header)
	if err != nil {
		t.Fatal(err)
	}
	if c.UUID != p.UUID || c.SequenceID != 1 || c.PayloadOffset != 1<<20 || c.SectorSize != 4096 {
		t.Errorf("got %s, %d, %d, %d", c.UUID, c.SequenceID, c.PayloadOffset, c.SectorSize)
	}
	clear(header) // nothing refers to it
	key, err := c.VolumeKey(p.Passphrase)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(key, p.VolumeKey) {
		t.Error("got another volume key")
	}
}

func TestSameRandomnessSameHeader(t *testing.T) {
	if !bytes.Equal(mustBuild(t, sampleParams()), mustBuild(t, sampleParams())) {
		t.Error("two headers differ")
	}
}

func TestWrongKey(t *testing.T) {
	p := sampleParams()
	c, err := Parse(mustBuild(t, p))
	if err != nil {
		t.Fatal(err)
	}
	for _, wrong := range [][]byte{nil, {}, p.Passphrase[:31], append(bytes.Clone(p.Passphrase), 1), bytes.Repeat([]byte{1}, 32)} {
		if key, err := c.VolumeKey(wrong); !errors.Is(err, ErrWrongKey) || key != nil {
			t.Errorf("passphrase of %d bytes: got %v, want %v", len(wrong), err, ErrWrongKey)
		}
	}
}

func TestKeyslotAreaIsPartOfTheKey(t *testing.T) {
	p := sampleParams()
	header := mustBuild(t, p)
	header[areaOffset+100000] ^= 1
	c, err := Parse(header)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.VolumeKey(p.Passphrase); !errors.Is(err, ErrWrongKey) {
		t.Errorf("got %v, want %v", err, ErrWrongKey)
	}
}

func TestPBKDF2(t *testing.T) {
	for _, size := range []int{1, 32, 33, 64} {
		want, err := pbkdf2.Key(sha256.New, "password", []byte("salt"), iterations, size)
		if err != nil {
			t.Fatal(err)
		}
		if got := deriveKey([]byte("password"), []byte("salt"), size); !bytes.Equal(got, want) {
			t.Errorf("%d bytes: got %x, want %x", size, got, want)
		}
	}
}

func TestBuildRefuses(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Params)
		want   string
	}{
		{"no UUID", func(p *Params) { p.UUID = [16]byte{} }, "UUID is all zero"},
		{"no sequence", func(p *Params) { p.SequenceID = 0 }, "seqid is 0"},
		{"short volume key", func(p *Params) { p.VolumeKey = p.VolumeKey[:32] }, "volume key has 32 bytes, want 64"},
		{"equal halves", func(p *Params) { copy(p.VolumeKey, p.VolumeKey[32:]) }, "halves"},
		{"short passphrase", func(p *Params) { p.Passphrase = []byte("secret") }, "passphrase has 6 bytes, want 32"},
		{"no randomness", func(p *Params) { p.Random = bytes.NewReader(nil) }, "reading randomness for salts"},
		{"little randomness", func(p *Params) { p.Random = io.LimitReader(p.Random, 1000) }, "reading randomness for stripes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := sampleParams()
			c.change(&p)
			if _, err := Build(p); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v, want one with %q", err, c.want)
			}
		})
	}
}

// remake replaces the JSON of both copies, with correct checksums.
func remake(header, text []byte) []byte {
	header = bytes.Clone(header)
	for _, at := range []int{0, metadataSize} {
		b := header[at:][:metadataSize]
		clear(b[binarySize:])
		copy(b[binarySize:], text)
		seal(b)
	}
	return header
}

// seal corrects the checksum of one copy.
func seal(b []byte) {
	sum := checksum(b)
	copy(b[atChecksum:], sum[:])
}

func jsonOf(header []byte) []byte {
	area := header[binarySize:metadataSize]
	return bytes.Clone(area[:bytes.IndexByte(area, 0)])
}

// TestSingleFieldMutations changes, removes, doubles and respells every member
// of the JSON, one at a time, with correct checksums in both copies. Each must
// be refused, the error must name the member, and no two members share an error.
func TestSingleFieldMutations(t *testing.T) {
	header := mustBuild(t, sampleParams())
	text := string(jsonOf(header))
	var tree any
	if err := json.Unmarshal([]byte(text), &tree); err != nil {
		t.Fatal(err)
	}
	count := 0
	errorOf := map[string]string{} // :: error -> path of the member
	try := func(path, how, member, changed string) {
		t.Helper()
		count++
		name := path + " " + how
		if changed == text {
			t.Errorf("%s: nothing was changed", name)
			return
		}
		_, err := Parse(remake(header, []byte(changed)))
		if err == nil || !strings.Contains(err.Error(), member) {
			t.Errorf("%s: got error %v, want one with %q", name, err, member)
			return
		}
		// An empty object lacks its members like one that lost them.
		if other := errorOf[err.Error()]; other != "" && other != path && how != "empty" {
			t.Errorf("%s: got error %v, as for %s", name, err, other)
		}
		if how != "empty" {
			errorOf[err.Error()] = path
		}
	}
	for _, m := range members(t, text) {
		name := m.path
		changed := map[string]string{
			"removed":               m.without(),
			"doubled":               text[:m.start] + m.pair() + "," + text[m.start:],
			"in capitals beside it": text[:m.start] + strings.ToUpper(m.quoted()) + ":" + m.value() + "," + text[m.start:],
			"null":                  m.with("null"),
			"true":                  m.with("true"),
			"an array":              m.with("[[]]"),
			"a float":               m.with("1.5"),
			"unknown beside it":     text[:m.start] + `"x_` + m.name() + `":1,` + text[m.start:],
		}
		switch value := m.value(); value[0] {
		case '"':
			changed["another string"] = m.with(`"x` + value[1:])
			changed["the string as a number"] = m.with(strings.Trim(value, `"`))
			changed["the empty string"] = m.with(`""`)
			changed["space within"] = m.with(value[:len(value)-1] + ` "`)
			changed["zero before"] = m.with(`"0` + value[1:])
			changed["negative"] = m.with(`"-` + value[1:])
			changed["large"] = m.with(`"18446744073709551616"`)
			changed["escaped"] = m.with(fmt.Sprintf(`"\u%04x%s`, value[1], value[2:]))
		case '{', '[':
			changed["a string"] = m.with(`"0"`)
			changed["empty"] = m.with(map[byte]string{'{': "{ }", '[': "[]"}[value[0]])
		default:
			changed["more"] = m.with(value + "0")
			changed["the number as a string"] = m.with(`"` + value + `"`)
			changed["with exponent"] = m.with(value + "e0")
			changed["negative"] = m.with("-" + value)
		}
		for how, changed := range changed {
			want := m.name()
			if json.Valid([]byte(changed)) && (how == "escaped" || how == "empty" && m.name() == "tokens") {
				want = "canonical" // the same value in another spelling
			}
			if m.name() == "0" || !json.Valid([]byte(changed)) {
				want = "" // the error may be about what holds the member
			}
			switch how {
			case "in capitals beside it":
				want = strings.ToUpper(m.name())
				if want == "0" {
					want = "twice"
				}
			case "unknown beside it":
				want = "x_" + m.name()
				if m.name() == "0" {
					want = ""
				}
			}
			try(name, how, want, changed)
		}
	}
	if count < 400 {
		t.Errorf("only %d mutations", count)
	}
	for _, text := range []string{" " + text, text + " ", strings.Replace(text, ":", ": ", 1), text + "{}", text[:len(text)-1], "null", "[]", "{}", "\xff" + text, strings.Repeat("[", 10000)} {
		if _, err := Parse(remake(header, []byte(text))); err == nil {
			t.Errorf("got no error for %.20q", text)
		}
	}
}

// member is one name of an object in a JSON text.
type member struct {
	text              string
	path              string
	start, colon, end int // of the quoted name, its colon, and the end of the value
}

func (m member) name() string   { return m.path[strings.LastIndexByte(m.path, '.')+1:] }
func (m member) quoted() string { return m.text[m.start:m.colon] }
func (m member) value() string  { return m.text[m.colon+1 : m.end] }
func (m member) pair() string   { return m.text[m.start:m.end] }
func (m member) with(value string) string {
	return m.text[:m.colon+1] + value + m.text[m.end:]
}

func (m member) without() string {
	if m.text[m.end] == ',' {
		return m.text[:m.start] + m.text[m.end+1:]
	}
	return strings.TrimSuffix(m.text[:m.start], ",") + m.text[m.end:]
}

// members lists the members of every object in compact JSON without escapes.
func members(t testing.TB, text string) []member {
	t.Helper()
	var all []member
	var value func(at int, path string) int
	value = func(at int, path string) int {
		switch text[at] {
		case '{':
			for at++; text[at] != '}'; {
				if text[at] == ',' {
					at++
				}
				m := member{text: text, start: at, colon: at + strings.Index(text[at:], ":")}
				m.path = strings.TrimPrefix(path+"."+strings.Trim(m.quoted(), `"`), ".")
				at = value(m.colon+1, m.path)
				m.end = at
				all = append(all, m)
			}
			return at + 1
		case '[':
			return at + strings.IndexByte(text[at:], ']') + 1
		case '"':
			return at + 2 + strings.IndexByte(text[at+1:], '"')
		default:
			return at + strings.IndexAny(text[at:], ",}")
		}
	}
	if end := value(0, ""); end != len(text) {
		t.Fatalf("JSON of %d bytes ends at %d", len(text), end)
	}
	return all
}

// TestBinaryMutations does the same to the binary headers. A wrong checksum is
// one case of its own; all others have a correct one.
func TestBinaryMutations(t *testing.T) {
	good := mustBuild(t, sampleParams())
	for _, c := range []struct {
		name   string
		change func(primary, secondary []byte)
		want   string
	}{
		{"magic", func(p, _ []byte) { p[0] = 'l' }, "primary header: magic is"},
		{"copies exchanged", func(p, s []byte) { copy(p, good[metadataSize:areaOffset]); copy(s, good) }, "primary header: magic is"},
		{"secondary magic", func(_, s []byte) { copy(s, primaryMagic) }, "secondary header: magic is"},
		{"version", func(p, _ []byte) { p[7] = 3 }, "LUKS version is 3, want 2"},
		{"hdr_size", func(p, _ []byte) { binary.BigEndian.PutUint64(p[atHeaderSize:], 32768) }, "hdr_size is 32768"},
		{"hdr_size, huge", func(p, _ []byte) { binary.BigEndian.PutUint64(p[atHeaderSize:], 1<<63) }, "hdr_size is 9223372036854775808"},
		{"seqid of the primary", func(p, _ []byte) { p[atSequenceID+7] = 9 }, "seqid is 9 in the primary and 1 in the secondary"},
		{"seqid of the secondary", func(_, s []byte) { s[atSequenceID] = 1 }, "seqid is 1 in the primary and 72057594037927937 in the secondary"},
		{"seqid zero", func(p, s []byte) { p[atSequenceID+7], s[atSequenceID+7] = 0, 0 }, "seqid is 0"},
		{"label", func(p, s []byte) { p[atLabel], s[atLabel] = 'x', 'x' }, "label is not zero"},
		{"subsystem", func(_, s []byte) { s[atSubsystem] = 'x' }, "secondary header: subsystem is not zero"},
		{"csum_alg", func(p, _ []byte) { copy(p[atAlgorithm:], "sha512") }, `csum_alg is "sha512"`},
		{"csum_alg, not padded", func(p, _ []byte) { p[atAlgorithm+31] = 'x' }, "csum_alg is"},
		{"uuid of one", func(_, s []byte) { s[atUUID] = '1' }, "uuid is"},
		{"uuid in capitals", func(p, s []byte) { p[atUUID+35], s[atUUID+35] = 'A', 'A' }, "parsing UUID"},
		{"uuid zero", func(p, s []byte) {
			for _, b := range [][]byte{p, s} {
				copy(b[atUUID:], "00000000-0000-0000-0000-000000000000")
			}
		}, "uuid is all zero"},
		{"uuid, not padded", func(p, _ []byte) { p[atUUID+39] = 'x' }, `\x00\x00\x00x"`},
		{"hdr_offset", func(_, s []byte) { binary.BigEndian.PutUint64(s[atOffset:], 32768) }, "hdr_offset is 32768, want 16384"},
		{"padding", func(p, _ []byte) { p[atPadding] = 1 }, "padding before the checksum is not zero"},
		{"checksum field", func(p, _ []byte) { p[atChecksum+63] = 1 }, "end of the checksum field is not zero"},
		{"padding 4096", func(p, _ []byte) { p[binarySize-1] = 1 }, "padding after the checksum is not zero"},
		{"no end of JSON", func(p, _ []byte) { copy(p[binarySize:], bytes.Repeat([]byte{' '}, jsonSize)) }, "does not end in a zero byte"},
		{"data after JSON", func(p, _ []byte) { p[metadataSize-1] = 1 }, "data after its end"},
		{"JSON of one", func(_, s []byte) { s[binarySize+10] ^= 1 }, "JSON area of primary and secondary header: at byte 10 got"},
	} {
		t.Run(c.name, func(t *testing.T) {
			header := bytes.Clone(good)
			p, s := header[:metadataSize], header[metadataSize:areaOffset]
			c.change(p, s)
			seal(p)
			seal(s)
			refused(t, header, c.want)
		})
	}
	for _, at := range []int{atChecksum, atSalt, binarySize, metadataSize + atSalt} {
		header := bytes.Clone(good)
		header[at] ^= 1
		refused(t, header, "checksum does not match")
	}
	for _, size := range []int{0, 1, 4096, HeaderSize - 1, HeaderSize + 1} {
		refused(t, make([]byte, size), fmt.Sprintf("got %d bytes, want %d", size, HeaderSize))
	}
}

// FuzzHeader: no JSON and no binary header makes Parse panic or take much
// memory, and what it takes is what Build writes.
func FuzzHeader(f *testing.F) {
	good := mustBuild(f, sampleParams())
	f.Add(good[:binarySize], jsonOf(good))
	f.Add(good[metadataSize:][:binarySize], []byte(`{"keyslots":{},"tokens":{},"segments":{},"digests":{},"config":{}}`))
	f.Fuzz(func(t *testing.T, binaryPart, text []byte) {
		header := bytes.Clone(good)
		for _, at := range []int{0, metadataSize} {
			b := header[at:][:metadataSize]
			copy(b[:binarySize], binaryPart)
			clear(b[binarySize:])
			copy(b[binarySize:metadataSize], text)
			if at > 0 {
				copy(b, secondaryMagic)
				binary.BigEndian.PutUint64(b[atOffset:], metadataSize)
			}
			seal(b)
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		c, err := Parse(header)
		runtime.ReadMemStats(&after)
		if took := after.TotalAlloc - before.TotalAlloc; took > 8<<20 {
			t.Errorf("Parse took %d bytes", took)
		}
		if err != nil {
			return
		}
		area := header[binarySize:metadataSize]
		area = area[:bytes.IndexByte(area, 0)]
		want := profile(disk(), c.slot.salt[:], c.digest.salt[:], c.digest.value[:]).encode()
		if !bytes.Equal(area, want) {
			t.Errorf("accepted %s, want %s", area, want)
		}
	})
}

// A volume's header is of its own kind: each reader refuses the other's, and a null
// integrity.
func TestAuthenticated(t *testing.T) {
	p := sampleParams()
	p.VolumeKey, p.Authenticated = append(p.VolumeKey, bytes.Repeat([]byte{7}, MACKeySize)...), true
	header := mustBuild(t, p)
	c, err := ParseAuthenticated(header)
	if err != nil {
		t.Fatal(err)
	}
	key, err := c.VolumeKey(bytes.Clone(p.Passphrase))
	if err != nil || !bytes.Equal(key, p.VolumeKey) {
		t.Errorf("got %d bytes of key, %v, want the volume key", len(key), err)
	}
	refused(t, header, `segments.0.integrity is "hmac(sha256)", want none in a disk's header`)
	for _, change := range []struct{ old, new, want string }{
		{`hmac(sha256)`, `none`, `segments.0.integrity.type is "none"`},
		{`"journal_encryption":"none"`, `"journal_encryption":"x"`, `segments.0.integrity.journal_encryption is "x"`},
		{`,"integrity":{"type":"hmac(sha256)","journal_encryption":"none","journal_integrity":"none"}`, ``, `segments.0.integrity is missing`},
		{`"type":"luks2","key_size":96`, `"type":"luks2","key_size":64`, `keyslots.0.key_size is 64, want 96`},
	} {
		text := bytes.Replace(jsonOf(header), []byte(change.old), []byte(change.new), 1)
		if _, err := ParseAuthenticated(remake(header, text)); err == nil || !strings.Contains(err.Error(), change.want) {
			t.Errorf("%s: got error %v, want one with %q", change.new, err, change.want)
		}
	}
	p.VolumeKey = p.VolumeKey[:VolumeKeySize]
	if _, err := Build(p); err == nil {
		t.Error("a short volume key builds")
	}
}
