package verity

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/rootvouch/rootvouch/pins"
)

// TestNegatives plays the published mutations of one data and hash device. The
// superblock must not parse, or what it says must not give the root hash.
func TestNegatives(t *testing.T) {
	var file struct {
		RootHash     string `json:"root_hash"`
		DeviceSHA256 string `json:"hash_device_sha256"`
		Salt         string
		UUID         pins.UUID
		Cases        []struct {
			Case   string
			Accept bool
		}
	}
	if err := json.Unmarshal(vectors(t, "negatives.json"), &file); err != nil {
		t.Fatal(err)
	}
	data := counter("neg", 300*BlockSize)
	sb := Superblock{UUID: file.UUID, DataBlocks: 300, Salt: unhex(t, file.Salt)}
	device, err := sb.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	var tree buffer
	if _, err := Build(sb.Params(), bytes.NewReader(data), &tree); err != nil {
		t.Fatal(err)
	}
	device = append(append(device, make([]byte, BlockSize-len(device))...), tree.bytes...)
	if got := sha256.Sum256(device); hex.EncodeToString(got[:]) != file.DeviceSHA256 {
		t.Fatal("hash device differs from the published one")
	}
	// Where we are stricter than veritysetup, and why.
	stricter := map[string]string{
		"superblock pad: bit 0 of byte 84 flipped":                     "padding must be zero",
		"superblock pad2 / after salt area: bit 0 of byte 344 flipped": "padding must be zero",
		"superblock last superblock byte: bit 0 of byte 511 flipped":   "padding must be zero",
		"upper case root hash":                                         "one value has one text",
	}
	for _, c := range file.Cases {
		t.Run(c.Case, func(t *testing.T) {
			data, device, root := bytes.Clone(data), bytes.Clone(device), file.RootHash
			var bit, offset int
			name := c.Case[strings.Index(c.Case, ":")+1:]
			if n, _ := fmt.Sscanf(strings.TrimSpace(name), "bit %d of byte %d flipped", &bit, &offset); n == 2 {
				device[offset] ^= 1 << bit
			} else if n, _ := fmt.Sscanf(name, "data bit %d of byte %d flipped", &bit, &offset); n == 2 {
				data[offset] ^= 1 << bit
			} else if n, _ := fmt.Sscanf(name, "hash device bit %d of byte %d flipped", &bit, &offset); n == 2 {
				device[offset] ^= 1 << bit
			} else {
				switch c.Case {
				case "untouched":
				case "data truncated by 1 block":
					data = data[:len(data)-BlockSize]
				case "data extended by 1 zero block":
					data = append(data, make([]byte, BlockSize)...)
				case "hash device truncated by 1 block":
					device = device[:len(device)-BlockSize]
				case "data blocks swapped 0,1":
					data = append(append(bytes.Clone(data[BlockSize:2*BlockSize]), data[:BlockSize]...), data[2*BlockSize:]...)
				case "wrong root hash (1 bit)":
					root = "94" + root[2:]
				case "short root hash":
					root = root[:62]
				case "upper case root hash":
					root = strings.ToUpper(root)
				case "root hash with spaces":
					root = root[:32] + " " + root[32:]
				default:
					t.Fatalf("unknown case")
				}
			}
			want := c.Accept && stricter[c.Case] == ""
			if err := check(data, device, root); (err == nil) != want {
				t.Errorf("got error %v, want accepted: %v", err, want)
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
