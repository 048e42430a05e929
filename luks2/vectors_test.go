package luks2

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/ulikunitz/xz"

	"github.com/rootvouch/rootvouch/internal/needs"
)

// vector reads a shared vector file, unpacked by its suffixes, or skips. Of a
// tar it takes one member.
func vector(t testing.TB, name, member string) []byte {
	t.Helper()
	f, err := os.Open(needs.Vectors(t, "luks2/"+name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r := io.Reader(f)
	switch {
	case strings.HasSuffix(name, ".xz"):
		r, err = xz.NewReader(f)
	case strings.HasSuffix(name, ".gz"):
		r, err = gzip.NewReader(f)
	}
	if err != nil {
		t.Fatal(err)
	}
	if member != "" {
		archive := tar.NewReader(r)
		for {
			header, err := archive.Next()
			if err != nil {
				t.Fatalf("looking for %s: %v", member, err)
			}
			if filepath.Base(header.Name) == member {
				break
			}
		}
		r = archive
	}
	// Headers are all we read; short images are filled up like a disk of zeros.
	data, err := io.ReadAll(io.LimitReader(r, HeaderSize))
	if err != nil {
		t.Fatal(err)
	}
	return append(data, make([]byte, HeaderSize-len(data))...)
}

func readJSON(t testing.TB, name string, v any) {
	t.Helper()
	data, err := os.ReadFile(needs.Vectors(t, "luks2/"+name))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, v); err != nil {
		t.Fatal(err)
	}
}

func refused(t *testing.T, header []byte, want string) {
	t.Helper()
	if _, err := Parse(header); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got error %v, want one with %q", err, want)
	}
}

// TestVectorsCVMAttacks: headers that a malicious host would write. Their base
// is outside our profile too, so the table holds the error that names the
// attack; TestSingleFieldMutations does the same within the profile.
func TestVectorsCVMAttacks(t *testing.T) {
	var file struct{ Cases []struct{ Image string } }
	readJSON(t, "cvm-header-attacks/expected.json", &file)
	want := map[string]string{
		"00-base":                               "segments.0.sector_size is 512, want 4096",
		"01-segment-cipher-null":                `segments.0.encryption is "cipher_null-ecb"`,
		"03-segment-linear":                     `segments.0.type is "linear", want "crypt"`,
		"04-keyslot-cipher-null-any-passphrase": `keyslots.0.area.encryption is "cipher_null-ecb"`,
		"11-two-segments":                       "got 2 segments, want 1",
		"13-requirement-unknown":                `"config.requirements": unknown member`,
		"17-kdf-iterations-2e32":                "keyslots.0.kdf.iterations is 4294967295, want 1000",
		"28-label-differs-from-secondary":       "label is not zero",
	}
	for _, c := range file.Cases {
		name := strings.TrimSuffix(c.Image, ".img.xz")
		t.Run(name, func(t *testing.T) {
			if want[name] == "" {
				t.Fatal("unknown case: name its error here")
			}
			refused(t, vector(t, "cvm-header-attacks/"+c.Image, ""), want[name])
		})
	}
	if len(file.Cases) < len(want) {
		t.Errorf("got %d cases, want %d", len(file.Cases), len(want))
	}
}

// TestVectorsHeaderValidation: cryptsetup's own set. All are outside the
// profile (argon2, other sizes, a destroyed copy); what cryptsetup repairs or
// tolerates is refused like the rest.
func TestVectorsHeaderValidation(t *testing.T) {
	var cases []struct{ Image string }
	readJSON(t, "header-validation/expected.json", &cases)
	special := map[string]string{
		"luks2-corrupted-hdr0-with-correct-chks": "JSON area does not end in a zero byte",
		"luks2-missing-trailing-null-byte-json0": "JSON area does not end in a zero byte",
		"luks2-invalid-checksum-hdr0":            "primary header: checksum does not match",
		"luks2-non-null-bytes-beyond-json0":      "JSON area has data after its end",
		"luks2-metadata-size-128k-secondary":     "primary header: magic is",
		"luks2-metadata-size-16k-secondary":      "primary header: magic is",
		"luks2-invalid-json-size-c2":             "hdr_size is 32768, want 16384",
		"luks2-metadata-size-invalid":            "hdr_size is 2147483648, want 16384",
		"luks2-invalid-tokens":                   `keyslots.0.kdf.type is "argon2`,
		"luks2-keyslot-invalid-af":               `keyslots.0.kdf.type is "argon2`,
		"luks2-keyslot-invalid-area":             `keyslots.0.kdf.type is "argon2`,
		"luks2-non-compact-json-token-0":         `keyslots.0.kdf.type is "argon2`,
		"luks2_valid_hdr":                        `keyslots.0.kdf.type is "argon2`,
	}
	for _, c := range cases {
		name := strings.TrimSuffix(c.Image, ".img")
		t.Run(name, func(t *testing.T) {
			want := special[name]
			if want == "" {
				want = "secondary header: magic is 56414355554d" // "VACUUM": overwritten by the set's makers
				if strings.HasPrefix(name, "luks2-metadata-size-") {
					want = ", want 16384"
				}
			}
			refused(t, vector(t, "header-validation/"+c.Image+".xz", ""), want)
		})
	}
	if len(cases) != 44 {
		t.Errorf("got %d cases, want 44", len(cases))
	}
}

// TestVectorsImages: real images of other tools, all outside the profile.
func TestVectorsImages(t *testing.T) {
	var cases []struct{ ID, File, Member string }
	readJSON(t, "images.json", &cases)
	want := map[string]string{
		"dfve-aes-xts-plain64": `keyslots.0.kdf.type is "argon2id"`,
		"dfve-aes-ecb-pbkdf2":  "",
		"cs-compatimage2":      "",
		"cs-mda-16":            "",
		"cs-mda-64":            "hdr_size is 65536",
		"cs-mda-4096":          "hdr_size is 4194304",
		"cs-requirements":      "",
		"cs-luks1":             "LUKS version is 1, want 2",
	}
	for _, c := range cases {
		t.Run(c.ID, func(t *testing.T) {
			message, ok := want[c.ID]
			if !ok {
				t.Fatal("unknown case: name its error here")
			}
			refused(t, vector(t, c.File, c.Member), message)
		})
	}
}

func TestAFSplitMerge(t *testing.T) {
	key := bytes.Repeat([]byte{0x5a}, VolumeKeySize)
	split := make([]byte, disk().areaUsed())
	for i := range split {
		split[i] = byte(i * 7)
	}
	splitKey(split, key)
	if got := merge(split, VolumeKeySize); !bytes.Equal(got, key) {
		t.Errorf("got %x, want %x", got, key)
	}
	split[12345] ^= 1
	if got := merge(split, VolumeKeySize); bytes.Equal(got, key) {
		t.Error("a changed stripe gives the same key")
	}
}
