package verity

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strings"
	"testing"

	"github.com/rootvouch/rootvouch/pins"
)

// TestNegatives changes one thing of a data device, a hash device or a root hash.
// The superblock must not parse, or its parameters must not give the root hash.
func TestNegatives(t *testing.T) {
	const rootHash = "95b868f10704e87630257060ae1b4ca3c7bfb12f7cd4b5928216506ae39579e7"
	data := counter("neg", 300*BlockSize)
	sb := Superblock{
		UUID: pins.UUID(unhex(t, "a60c98d2ae9b4865bfcbb4e3ace11033")), DataBlocks: 300,
		Salt: unhex(t, "e48da609055204e89ae53b655ca2216dd983cf3cb829f34f63a297d106d53e2d"),
	}
	device, err := sb.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	var tree buffer
	if _, err := Build(sb.Params(), bytes.NewReader(data), &tree); err != nil {
		t.Fatal(err)
	}
	device = append(append(device, make([]byte, BlockSize-len(device))...), tree.bytes...)
	if got := sha256.Sum256(device); hex.EncodeToString(got[:]) != "e20fbbd91cb9539d4440d1cfabdc4314c1c95534b02e0d82ec9d69cd0151fc9d" {
		t.Fatal("hash device differs from veritysetup's")
	}
	type devices struct {
		data, device []byte
		root         string
	}
	flipData := func(offset int) func(d *devices) { return func(d *devices) { d.data[offset] ^= 1 } }
	flip := func(offset int) func(d *devices) { return func(d *devices) { d.device[offset] ^= 1 } }
	for _, c := range []struct {
		name     string
		change   func(d *devices)
		accepted bool
		theirs   bool // veritysetup 2.6.1 accepts it
	}{
		{"nothing", func(*devices) {}, true, true},
		{"first byte of the data", flipData(0), false, false},
		{"last byte of the first block", flipData(4095), false, false},
		{"first byte of the second block", flipData(4096), false, false},
		{"last byte of the data", flipData(300*BlockSize - 1), false, false},
		{"data one block shorter", func(d *devices) { d.data = d.data[:len(d.data)-BlockSize] }, false, false},
		{"data one block longer", func(d *devices) { d.data = append(d.data, make([]byte, BlockSize)...) }, true, true},
		{"two data blocks exchanged", func(d *devices) {
			d.data = append(append(bytes.Clone(d.data[BlockSize:2*BlockSize]), d.data[:BlockSize]...), d.data[2*BlockSize:]...)
		}, false, false},
		{"first byte of the top hash block", flip(4096), false, false},
		{"last byte of its first hash", flip(4127), false, false},
		{"first byte of the leaf hashes", flip(8192), false, false},
		{"last byte of a leaf hash", flip(9599), false, false},
		{"first byte of the next leaf hash", flip(9600), false, false},
		{"padding at the end of the tree", flip(20479), false, false},
		{"tree one block shorter", func(d *devices) { d.device = d.device[:len(d.device)-BlockSize] }, false, false},
		{"magic", flip(0), false, false},
		{"version", flip(8), false, false},
		{"hash_type", flip(12), false, false},
		{"uuid, which the tree does not cover", flip(16), true, true},
		{"algorithm", flip(32), false, false},
		{"data_block_size", flip(64), false, false},
		{"hash_block_size", flip(68), false, false},
		{"data_blocks", flip(72), false, false},
		{"salt_size", flip(80), false, false},
		{"salt", flip(88), false, false},
		{"padding after salt_size", flip(84), false, true},
		{"padding after the salt", flip(344), false, true},
		{"last byte of the superblock", flip(511), false, true},
		{"one digit of the root hash", func(d *devices) { d.root = "94" + d.root[2:] }, false, false},
		{"short root hash", func(d *devices) { d.root = d.root[:62] }, false, false},
		{"root hash in capitals", func(d *devices) { d.root = strings.ToUpper(d.root) }, false, true},
		{"root hash with a space", func(d *devices) { d.root = d.root[:32] + " " + d.root[32:] }, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := devices{bytes.Clone(data), bytes.Clone(device), rootHash}
			c.change(&d)
			if err := check(d.data, d.device, d.root); (err == nil) != c.accepted {
				t.Errorf("got error %v, want accepted: %v", err, c.accepted)
			}
			if c.accepted && !c.theirs {
				t.Error("we accept what veritysetup refuses")
			}
		})
	}
}

// check is what image verify does, in one goroutine: the tree of the data must
// be the stored one and lead to the root hash.
func check(data, device []byte, root string) error {
	want, err := pins.ParseDigest(root)
	if err != nil {
		return err
	}
	sb, err := ParseSuperblock(device[:SuperblockSize])
	if err != nil {
		return err
	}
	var tree buffer
	got, err := Build(sb.Params(), bytes.NewReader(data), &tree)
	if err != nil {
		return err
	}
	if !bytes.Equal(got, want[:]) {
		return errors.New("root hash differs")
	}
	if !bytes.Equal(tree.bytes, device[BlockSize:]) {
		return errors.New("tree differs")
	}
	return nil
}
