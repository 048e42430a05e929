package bootlog

import (
	"bytes"
	"crypto/sha256"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rootvouch/rootvouch/pins"
)

func sample() Log {
	return Log{
		Version:       1,
		DiskUUID:      pins.UUID{1},
		HeaderSHA256:  pins.Digest{2},
		RootHash:      pins.Digest{3},
		KeyGeneration: 4,
		KMSSPIFFEID:   "spiffe://example.org/kms",
		Verification:  "full",
		Steps:         []Step{{"start", 2900, 12}, {"dm-crypt", 3000, 40}},
	}
}

func encode(t testing.TB, l Log) []byte {
	t.Helper()
	data, err := l.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestRoundTrip(t *testing.T) {
	data := encode(t, sample())
	got, err := Decode(data)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(sample(), got); diff != "" {
		t.Error(diff)
	}
	digest, err := got.Digest()
	if err != nil || digest != pins.Digest(sha256.Sum256(data)) {
		t.Errorf("digest is %s, %v, want that of the encoded form", digest, err)
	}
}

func TestDecodeRefuses(t *testing.T) {
	for _, c := range []struct{ name, old, new, want string }{
		{"version", `"version": 1`, `"version": 2`, "version is 2"},
		{"no UUID", `"01000000-`, `"00000000-`, "disk_uuid is all zero"},
		{"no root hash", `"03`, `"00`, "verity_root_hash is all zero"},
		{"no generation", `"key_generation": 4`, `"key_generation": 0`, "key_generation is 0"},
		{"not a SPIFFE ID", `spiffe://`, `https://`, "kms_spiffe_id"},
		{"space in SPIFFE ID", `example.org/kms`, `example.org/k s`, "printable ASCII"},
		{"verification", `"full"`, `"none"`, "verification is"},
		{"step name", `"start"`, `"Start"`, "name of step 0"},
		{"order", `"start_ms": 3000`, `"start_ms": 2899`, "steps are in order"},
		{"negative", `"duration_ms": 12`, `"duration_ms": -12`, "duration_ms"},
		{"other form", `"version": 1,`, `"version":1,`, "canonical"},
		{"case", `"steps"`, `"Steps"`, "Steps"},
		{"unknown member", `"version": 1,`, `"version": 1, "x": 1,`, "x"},
	} {
		t.Run(c.name, func(t *testing.T) {
			data := strings.Replace(string(encode(t, sample())), c.old, c.new, 1)
			if data == string(encode(t, sample())) {
				t.Fatal("the case changes nothing")
			}
			if _, err := Decode([]byte(data)); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v, want one with %q", err, c.want)
			}
		})
	}
}

func TestDecodeBounds(t *testing.T) {
	if _, err := Decode(append(encode(t, sample()), bytes.Repeat([]byte{' '}, MaxSize)...)); err == nil {
		t.Error("got no error for a log above MaxSize")
	}
	l := sample()
	l.Steps = nil
	if _, err := l.Encode(); err == nil {
		t.Error("got no error for a log without steps")
	}
	l.Steps = make([]Step, maxSteps+1)
	for i := range l.Steps {
		l.Steps[i].Name = "x"
	}
	if _, err := l.Encode(); err == nil {
		t.Error("got no error for 65 steps")
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(encode(f, sample()))
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := Decode(data)
		if err != nil {
			return
		}
		if again := encode(t, l); !bytes.Equal(again, data) {
			t.Errorf("got %q, want %q", again, data)
		}
	})
}

// TestSpecExample reads the example of docs/spec/bootlog.md.
func TestSpecExample(t *testing.T) {
	spec, err := os.ReadFile("../../docs/spec/bootlog.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(spec), "```json\n")
	example, _, closed := strings.Cut(rest, "```")
	if !ok || !closed {
		t.Fatal("the document has no example")
	}
	if _, err := Decode([]byte(example)); err != nil {
		t.Error(err)
	}
}
