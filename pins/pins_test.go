package pins

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func sample() Pins {
	return New(
		Verity{RootHash: Digest{1}, Salt: HexBytes{2, 3}, DataBlocks: 10, HashOffset: 40960, PayloadOffset: 1 << 20, PayloadSize: 49152},
		Header{DiskUUID: UUID{4}, HeaderSHA256: Digest{5}},
		EROFS, InitOK)
}

func TestRoundTrip(t *testing.T) {
	want := sample()
	got, err := Decode(want.Encode())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestDecodeRefuses(t *testing.T) {
	for _, c := range []struct{ name, old, new, want string }{
		{"version", `"version": 1`, `"version": 2`, "version is 2, want 1"},
		{"no root hash", strings.Repeat("0", 62), strings.Repeat("0", 60), "want 64 lower-case hex digits"},
		{"zero root hash", `"01` + strings.Repeat("0", 62), `"00` + strings.Repeat("0", 62), "verity_root_hash is all zero"},
		{"upper case", `"0203"`, `"020A"`, "lower-case"},
		{"no blocks", `"data_blocks": 10`, `"data_blocks": 0`, "data_blocks is 0"},
		{"gap before the tree", `"hash_offset": 40960`, `"hash_offset": 45056`, "hash_offset is 45056, want 40960"},
		{"unaligned payload", `"payload_offset": 1048576`, `"payload_offset": 1048577`, "payload_offset"},
		{"no tree", `"payload_size": 49152`, `"payload_size": 40960`, "payload_size"},
		{"zero UUID", `"04000000-`, `"00000000-`, "disk_uuid is all zero"},
		{"UUID without dashes", `04000000-0000-0000-0000-000000000000`, `04000000000000000000000000000000`, "8-4-4-4-12"},
		{"zero header digest", `"05` + strings.Repeat("0", 62), `"00` + strings.Repeat("0", 62), "luks2_header_sha256 is all zero"},
		{"filesystem", `"erofs"`, `"xfs"`, `filesystem is "xfs"`},
		{"init", `"ok"`, `"fine"`, `init is "fine"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			data := strings.Replace(string(sample().Encode()), c.old, c.new, 1)
			if _, err := Decode([]byte(data)); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v, want one with %q", err, c.want)
			}
		})
	}
}

func TestCheckBoots(t *testing.T) {
	for init, want := range map[Init]string{InitOK: "", InitUnseen: "", InitBad: "no /sbin/init that a VM can execute", "": `init is ""`} {
		if err := init.CheckBoots(); (err != nil) != (want != "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("init %q: got error %v, want %q", init, err, want)
		}
	}
}

func TestSaltBound(t *testing.T) {
	v := sample().Verity
	v.Salt = make(HexBytes, MaxSalt)
	if err := v.Check(); err != nil {
		t.Error(err)
	}
	v.Salt = make(HexBytes, MaxSalt+1)
	if err := v.Check(); err == nil {
		t.Error("got no error for a salt of 257 bytes")
	}
}

func TestNewUUID(t *testing.T) {
	u, err := NewUUID(bytes.NewReader(bytes.Repeat([]byte{0xff}, 16)))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := u.String(), "ffffffff-ffff-4fff-bfff-ffffffffffff"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if _, err := NewUUID(bytes.NewReader(make([]byte, 15))); err == nil {
		t.Error("got no error for short randomness")
	}
}
