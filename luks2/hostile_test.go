package luks2

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"strings"
	"testing"
)

// An attack is what a host does to the header of a disk that it stores. The host
// can write any bytes and correct every checksum; it has no key.
type attack struct {
	name string
	// old and new are parts of the JSON, of both copies.
	old, new string
	// whole, if set, makes the header instead.
	whole func(t *testing.T, good []byte) []byte
	want  string // in the error
}

// attacks makes one header each from a header that Build wrote.
func attacks() []attack {
	const segment = `"0":{"type":"crypt","offset":"1048576","size":"dynamic","iv_tweak":"0","encryption":"aes-xts-plain64","sector_size":4096}`
	return []attack{
		// Data that is not encrypted, or not as the owner chose.
		{name: "segment under the null cipher", old: `"iv_tweak":"0","encryption":"aes-xts-plain64"`, new: `"iv_tweak":"0","encryption":"cipher_null-ecb"`, want: `segments.0.encryption is "cipher_null-ecb"`},
		{name: "segment in ECB mode", old: `"iv_tweak":"0","encryption":"aes-xts-plain64"`, new: `"iv_tweak":"0","encryption":"aes-ecb"`, want: `segments.0.encryption is "aes-ecb"`},
		{name: "segment whose IV repeats", old: `"iv_tweak":"0","encryption":"aes-xts-plain64"`, new: `"iv_tweak":"0","encryption":"aes-xts-null"`, want: `segments.0.encryption is "aes-xts-null"`},
		{name: "linear segment", old: segment, new: `"0":{"type":"linear","offset":"1048576","size":"dynamic"}`, want: `segments.0.type is "linear", want "crypt"`},
		{name: "two segments, the second linear", old: segment, new: segment + `,"1":{"type":"linear","offset":"2097152","size":"dynamic"}`, want: `segments.1.type is "linear", want "crypt"`},
		{name: "two segments", old: segment, new: segment + "," + strings.Replace(segment, `"0":{`, `"1":{`, 1), want: "got 2 segments, want 1"},
		{name: "no segment", old: segment, want: "got 0 segments, want 1"},
		{name: "segment inside the header", old: `"offset":"1048576"`, new: `"offset":"32768"`, want: `segments.0.offset is "32768"`},
		{name: "segment of one sector", old: `"dynamic"`, new: `"4096"`, want: `segments.0.size is "4096"`},
		{name: "segment with another tweak", old: `"iv_tweak":"0"`, new: `"iv_tweak":"8"`, want: `segments.0.iv_tweak is "8"`},
		{name: "segment with small sectors", old: `"sector_size":4096`, new: `"sector_size":512`, want: "segments.0.sector_size is 512, want 4096"},
		{name: "segment with dm-integrity", old: `"sector_size":4096`, new: `"sector_size":4096,"integrity":{"type":"none","journal_encryption":"none","journal_integrity":"none"}`, want: `segments.0.integrity is "none", want none in a disk's header`},
		{name: "segment of a finished reencryption", old: `"sector_size":4096`, new: `"sector_size":4096,"flags":["backup-final"]`, want: `unknown member`},

		// A volume key of the host's.
		{name: "keyslot that any passphrase opens", whole: anyPassphrase, want: `keyslots.0.area.encryption is "cipher_null-ecb"`},
		{name: "second keyslot", old: `}}},"tokens"`, new: `}},"1":{"type":"luks2","key_size":64,"af":{"type":"luks1","stripes":4000,"hash":"sha256"},"area":{"type":"raw","offset":"290816","size":"258048","encryption":"aes-xts-plain64","key_size":64},"kdf":{"type":"pbkdf2","hash":"sha256","iterations":1000,"salt":"AAAA"}}},"tokens"`, want: "got 2 keyslots, want 1"},
		{name: "keyslot area in the payload", old: `"offset":"32768"`, new: `"offset":"1048576"`, want: `keyslots.0.area.offset is "1048576"`},
		{name: "keyslot without stripes", old: `"stripes":4000`, new: `"stripes":1`, want: "keyslots.0.af.stripes is 1, want 4000"},
		{name: "short volume key", old: `"type":"luks2","key_size":64`, new: `"type":"luks2","key_size":16`, want: "keyslots.0.key_size is 16, want 64"},
		{name: "keyslot of a reencryption", old: `"type":"luks2","key_size":64`, new: `"type":"reencrypt","key_size":1`, want: `keyslots.0.type is "reencrypt"`},
		{name: "digest of no keyslot", old: `"keyslots":["0"]`, new: `"keyslots":[]`, want: "digests.0.keyslots"},
		{name: "digest of no segment", old: `"segments":["0"]`, new: `"segments":[]`, want: "digests.0.segments"},
		{name: "digest that is cheap to search", old: `"segments":["0"],"hash":"sha256","iterations":1000`, new: `"segments":["0"],"hash":"sha256","iterations":1`, want: "digests.0.iterations is 1, want 1000"},

		// Work without end.
		{name: "PBKDF2 with 2^32 iterations", old: `"hash":"sha256","iterations":1000,"salt":"`, new: `"hash":"sha256","iterations":4294967296,"salt":"`, want: "keyslots.0.kdf.iterations is 4294967296, want 1000"},
		{name: "Argon2 with 4 TiB", old: `"type":"pbkdf2","hash":"sha256","iterations":1000,"salt"`, new: `"type":"argon2id","time":4294967295,"memory":4294967295,"cpus":4,"salt"`, want: `keyslots.0.kdf.type is "argon2id"`},
		{name: "JSON area of 4 MiB", whole: binaryField(atHeaderSize, binary.BigEndian.AppendUint64(nil, 4<<20)), want: "hdr_size is 4194304, want 16384"},

		// Orders to the reader.
		{name: "unknown requirement", old: `"keyslots_size":"524288"`, new: `"keyslots_size":"524288","requirements":{"mandatory":["no-such-thing"]}`, want: `"config.requirements": unknown member`},
		{name: "reencryption in progress", old: `"keyslots_size":"524288"`, new: `"keyslots_size":"524288","requirements":{"mandatory":["online-reencrypt-v2"]}`, want: `"config.requirements": unknown member`},
		{name: "flags", old: `"keyslots_size":"524288"`, new: `"keyslots_size":"524288","flags":["allow-discards"]`, want: `"config.flags": unknown member`},
		{name: "token of another unlocker", old: `"tokens":{}`, new: `"tokens":{"0":{"type":"systemd-tpm2","keyslots":["0"]}}`, want: `"tokens.0": unknown member`},

		// Two meanings, one for each reader.
		{name: "member twice", old: `"encryption":"aes-xts-plain64","sector_size"`, new: `"encryption":"aes-xts-plain64","encryption":"cipher_null-ecb","sector_size"`, want: "twice"},
		{name: "member in other letters", old: `"encryption":"aes-xts-plain64","sector_size"`, new: `"encryption":"aes-xts-plain64","Encryption":"cipher_null-ecb","sector_size"`, want: "unknown member"},
		{name: "name with an escape", old: `"iv_tweak":"0","encryption"`, new: `"iv_tweak":"0","\u0065ncryption"`, want: "canonical"},
		{name: "copies that differ", whole: func(_ *testing.T, good []byte) []byte {
			null := bytes.Replace(jsonOf(good), []byte(`"iv_tweak":"0","encryption":"aes-xts-plain64"`), []byte(`"iv_tweak":"0","encryption":"cipher_null-ecb"`), 1)
			return append(bytes.Clone(good[:metadataSize]), remake(good, null)[metadataSize:]...)
		}, want: "JSON area of primary and secondary header"},
		{name: "newer secondary copy", whole: func(_ *testing.T, good []byte) []byte {
			header := bytes.Clone(good)
			header[metadataSize+atSequenceID+7] = 200
			seal(header[metadataSize:areaOffset])
			return header
		}, want: "seqid is 1 in the primary and 200 in the secondary"},
		{name: "label in one copy", whole: binaryField(atLabel, []byte("root")), want: "label is not zero"},
		{name: "UUID of another disk in one copy", whole: binaryField(atUUID, []byte("11111111")), want: "uuid is"},
	}
}

// binaryField changes a field of the primary header.
func binaryField(at int, value []byte) func(*testing.T, []byte) []byte {
	return func(_ *testing.T, good []byte) []byte {
		header := bytes.Clone(good)
		copy(header[at:], value)
		seal(header[:metadataSize])
		return header
	}
}

// anyPassphrase is a header whose keyslot area is stored in the clear and gives
// a volume key that the host chose. A reader that accepts it decrypts the host's
// data with whichever passphrase it has.
func anyPassphrase(t *testing.T, good []byte) []byte {
	t.Helper()
	key := make([]byte, VolumeKeySize)
	for i := range key {
		key[i] = byte(i)
	}
	var m metadata
	if err := json.Unmarshal(jsonOf(good), &m); err != nil {
		t.Fatal(err)
	}
	slot, digest := m.Keyslots["0"], m.Digests["0"]
	slot.Area.Encryption = "cipher_null-ecb"
	digest.Digest = base64.StdEncoding.EncodeToString(deriveKey(key, mustBytes(digest.Salt), digestSize))
	m.Keyslots["0"], m.Digests["0"] = slot, digest
	header := remake(good, m.encode())
	split := header[areaOffset:][:disk().areaUsed()]
	splitKey(split, key)
	if !bytes.Equal(merge(split, len(key)), key) {
		t.Fatal("the area does not give the host's key")
	}
	return header
}

// TestHostileHeaders refuses the header of each attack, by its name.
func TestHostileHeaders(t *testing.T) {
	good := mustBuild(t, sampleParams())
	if _, err := Parse(good); err != nil {
		t.Fatal(err)
	}
	for _, a := range attacks() {
		t.Run(a.name, func(t *testing.T) {
			var header []byte
			if a.whole != nil {
				header = a.whole(t, good)
			} else {
				text := jsonOf(good)
				changed := bytes.Replace(text, []byte(a.old), []byte(a.new), 1)
				if bytes.Equal(changed, text) {
					t.Fatal("the attack changes nothing")
				}
				header = remake(good, changed)
			}
			refused(t, header, a.want)
		})
	}
}
