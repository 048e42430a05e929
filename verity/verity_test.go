package verity

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rootvouch/rootvouch/internal/needs"
	"github.com/rootvouch/rootvouch/pins"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// buffer is an io.WriterAt that grows.
type buffer struct{ bytes []byte }

func (m *buffer) WriteAt(b []byte, offset int64) (int, error) {
	if end := int(offset) + len(b); end > len(m.bytes) {
		m.bytes = append(m.bytes, make([]byte, end-len(m.bytes))...)
	}
	return copy(m.bytes[offset:], b), nil
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// TestPublishedVectors builds trees over zeros and compares root hash, tree and
// hash device with published figures.
func TestPublishedVectors(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("testdata", "published.json"))
	if err != nil {
		t.Fatal(err)
	}
	var rows []struct {
		Name          string
		DataSize      uint64 `json:"data_size"`
		DataBlockSize int    `json:"data_block_size"`
		HashBlockSize int    `json:"hash_block_size"`
		HashType      uint32 `json:"hash_type"`
		Hash          Algorithm
		Salt          string
		UUID          pins.UUID
		RootHash      string `json:"root_hash"`
		TreeSize      int    `json:"tree_size"`
		TreeSHA256    string `json:"tree_sha256"`
		DeviceSize    int    `json:"device_size"`
		DeviceSHA256  string `json:"device_sha256"`
	}
	if err := json.Unmarshal(data, &rows); err != nil {
		t.Fatal(err)
	}
	if len(rows) != 7 {
		t.Fatalf("got %d rows, want 7", len(rows))
	}
	compare := func(t *testing.T, what string, got []byte, size int, sum string) {
		t.Helper()
		if s := sha256.Sum256(got); len(got) != size || hex.EncodeToString(s[:]) != sum {
			t.Errorf("%s has %d bytes and SHA-256 %x, want %d and %s", what, len(got), s, size, sum)
		}
	}
	for _, v := range rows {
		t.Run(v.Name, func(t *testing.T) {
			p := Params{v.Hash, v.HashType, v.DataBlockSize, v.HashBlockSize, v.DataSize / uint64(v.DataBlockSize), unhex(t, v.Salt)}
			var tree buffer
			root, err := Build(p, zeros{}, &tree)
			if err != nil {
				t.Fatal(err)
			}
			if got := hex.EncodeToString(root); got != v.RootHash {
				t.Errorf("root hash is %s, want %s", got, v.RootHash)
			}
			compare(t, "tree", tree.bytes, v.TreeSize, v.TreeSHA256)
			if v.HashType != 1 || v.Hash != SHA256 || v.HashBlockSize != BlockSize || v.DataBlockSize != BlockSize {
				return // Superblock writes one profile only
			}
			sb, err := Superblock{v.UUID, p.DataBlocks, p.Salt}.Marshal()
			if err != nil {
				t.Fatal(err)
			}
			compare(t, "hash device", append(append(sb, make([]byte, BlockSize-len(sb))...), tree.bytes...), v.DeviceSize, v.DeviceSHA256)
		})
	}
}

func TestGeometry(t *testing.T) {
	for _, c := range []struct {
		blocks uint64
		want   Geometry
	}{
		{1, Geometry{}},
		{2, Geometry{[]Level{{0, 1}}, 4096}},
		{128, Geometry{[]Level{{0, 1}}, 4096}},
		{129, Geometry{[]Level{{4096, 2}, {0, 1}}, 3 * 4096}},
		{128 * 128, Geometry{[]Level{{4096, 128}, {0, 1}}, 129 * 4096}},
		{128*128 + 1, Geometry{[]Level{{3 * 4096, 129}, {4096, 2}, {0, 1}}, 132 * 4096}},
	} {
		if diff := cmp.Diff(c.want, Profile(c.blocks, nil).Geometry()); diff != "" {
			t.Errorf("%d blocks: %s", c.blocks, diff)
		}
	}
}

func TestCheckRefuses(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Params)
		want   string
	}{
		{"algorithm", func(p *Params) { p.Algorithm = "md5" }, `hash algorithm is "md5"`},
		{"hash type", func(p *Params) { p.HashType = 2 }, "hash_type is 2"},
		{"data block size", func(p *Params) { p.DataBlockSize = 4095 }, "data_block_size is 4095"},
		{"hash block size", func(p *Params) { p.HashBlockSize = 256 }, "hash_block_size is 256"},
		{"no data", func(p *Params) { p.DataBlocks = 0 }, "data_blocks is 0"},
		{"too much data", func(p *Params) { p.DataBlocks = 1<<40 + 1 }, "data_blocks is 1099511627777"},
		{"salt", func(p *Params) { p.Salt = make([]byte, 257) }, "salt has 257 bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := Profile(10, nil)
			c.change(&p)
			if err := p.Check(); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v, want one with %q", err, c.want)
			}
		})
	}
}

func TestBuildRefusesShortData(t *testing.T) {
	_, err := Build(Profile(200, nil), io.LimitReader(zeros{}, 200*BlockSize-1), nil)
	if !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got error %v, want %v", err, io.ErrUnexpectedEOF)
	}
}

// counter is the deterministic data of the vectors: SHA-256 over seed, colon and
// a decimal counter.
func counter(seed string, size int) []byte {
	var out []byte
	for n := uint64(0); len(out) < size; n++ {
		block := sha256.Sum256(strconv.AppendUint([]byte(seed+":"), n, 10))
		out = append(out, block[:]...)
	}
	return out[:size]
}

// TestBuildNoticesEveryBlock changes one bit in each of 300 blocks.
func TestBuildNoticesEveryBlock(t *testing.T) {
	p := Profile(300, []byte("salt"))
	data := counter("notice", 300*BlockSize)
	seen := map[string]int{}
	for i := -1; i < 300; i++ {
		if i >= 0 {
			data[i*BlockSize+i] ^= 1
		}
		root, err := Build(p, bytes.NewReader(data), nil)
		if err != nil {
			t.Fatal(err)
		}
		if before, ok := seen[string(root)]; ok {
			t.Errorf("changes of blocks %d and %d have one root hash", before, i)
		}
		seen[string(root)] = i
		if i >= 0 {
			data[i*BlockSize+i] ^= 1
		}
	}
}

func sample() Superblock {
	return Superblock{UUID: pins.UUID{1, 2, 3}, DataBlocks: 300, Salt: bytes.Repeat([]byte{7}, 32)}
}

func TestSuperblockRefuses(t *testing.T) {
	for _, c := range []struct {
		name   string
		offset int
		value  []byte
		want   string
	}{
		{"magic", 0, []byte("w"), "magic is"},
		{"version", 8, []byte{2}, "version is 2, want 1"},
		{"hash type", 12, []byte{0}, "hash_type is 0, want 1"},
		{"algorithm", 32, []byte("sha512"), `algorithm is "sha512", want "sha256"`},
		{"algorithm, not padded", 40, []byte("x"), "algorithm is"},
		{"data block size", 64, []byte{0, 2}, "data_block_size is 512, want 4096"},
		{"hash block size", 68, []byte{0, 4}, "hash_block_size is 1024, want 4096"},
		{"no blocks", 72, make([]byte, 8), "data_blocks is 0"},
		{"too many blocks", 79, []byte{1}, "data_blocks is"},
		{"salt size", 80, []byte{1, 1}, "salt_size is 257"},
		{"salt size within the field", 80, []byte{31}, "padding after the salt: byte 0x77 is not zero"},
		{"pad 1", 82, []byte{1}, "padding after salt_size: byte 0x52 is not zero"},
		{"after the salt", 0x157, []byte{1}, "padding after the salt: byte 0x157 is not zero"},
		{"pad 2", 344, []byte{1}, "padding at the end: byte 0x158 is not zero"},
		{"last byte", 511, []byte{0x80}, "padding at the end: byte 0x1ff is not zero"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b, err := sample().Marshal()
			if err != nil {
				t.Fatal(err)
			}
			copy(b[c.offset:], c.value)
			if _, err := ParseSuperblock(b); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v, want one with %q", err, c.want)
			}
		})
	}
	for _, size := range []int{0, 511, 513} {
		if _, err := ParseSuperblock(make([]byte, size)); err == nil {
			t.Errorf("got no error for %d bytes", size)
		}
	}
}

func FuzzSuperblock(f *testing.F) {
	b, err := sample().Marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ParseSuperblock(b)
		if err != nil {
			return
		}
		again, err := s.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(again, b) {
			t.Errorf("got %x, want %x", again, b)
		}
	})
}

// TestInteropVeritysetup makes hash devices with both and compares the bytes.
func TestInteropVeritysetup(t *testing.T) {
	tool := needs.Tool(t, "veritysetup")
	dir := t.TempDir()
	for _, blocks := range []int{1, 2, 127, 128, 129, 300, 128*128 + 1} {
		for _, salt := range []int{0, 32, 64, 256} {
			if blocks > 300 && salt != 32 {
				continue // 64 MiB: once is enough
			}
			sb := Superblock{UUID: pins.UUID{1, 2, 3}, DataBlocks: uint64(blocks), Salt: counter("salt", salt)}
			data := counter("data", blocks*BlockSize)
			path, device := filepath.Join(dir, "data"), filepath.Join(dir, "hash")
			if err := os.WriteFile(path, data, 0o600); err != nil {
				t.Fatal(err)
			}
			os.Remove(device)
			saltArg := "-"
			if salt > 0 {
				saltArg = hex.EncodeToString(sb.Salt)
			}
			out, err := exec.Command(tool, "format", "--uuid", sb.UUID.String(), "--salt", saltArg, path, device).CombinedOutput()
			if err != nil {
				t.Fatalf("veritysetup format: %v: %s", err, out)
			}
			head, err := sb.Marshal()
			if err != nil {
				t.Fatal(err)
			}
			got := &buffer{}
			root, err := Build(sb.Params(), bytes.NewReader(data), got)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(string(out), fmt.Sprintf("%x", root)) {
				t.Errorf("%d blocks, salt of %d: root hash %x is not in %s", blocks, salt, root, out)
			}
			want, err := os.ReadFile(device)
			if err != nil {
				t.Fatal(err)
			}
			whole := append(append(head, make([]byte, BlockSize-len(head))...), got.bytes...)
			if !bytes.Equal(whole, want) {
				t.Errorf("%d blocks, salt of %d: hash device differs from veritysetup's", blocks, salt)
			}
		}
	}
}
