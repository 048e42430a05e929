package image_test

import (
	"bytes"
	"context"
	"fmt"

	"github.com/rootvouch/rootvouch/image"
	"github.com/rootvouch/rootvouch/image/erofs"
	"github.com/rootvouch/rootvouch/image/rootfs"
	"github.com/rootvouch/rootvouch/pins"
)

// memory is a disk in memory. Build writes each block once, from several
// goroutines.
type memory []byte

func (m *memory) Truncate(size int64) error { *m = make([]byte, size); return nil }

func (m *memory) WriteAt(b []byte, offset int64) (int, error) { return copy((*m)[offset:], b), nil }

// A tree with one directory becomes a disk, which its pins then verify. The seed
// stands for every key here; a real disk draws its secrets from crypto/rand.
func ExampleBuild() {
	ctx := context.Background()
	tree := rootfs.New()
	if err := tree.Add("etc", rootfs.File{Mode: erofs.TypeDirectory | 0o755}); err != nil {
		panic(err)
	}
	source, err := image.Tree(tree, pins.InitUnseen)
	if err != nil {
		panic(err)
	}
	seed, err := image.SeedReader(bytes.Repeat([]byte{7}, image.MinSeed))
	if err != nil {
		panic(err)
	}
	secrets, err := image.NewSecrets(seed)
	if err != nil {
		panic(err)
	}
	defer secrets.Wipe()
	var out memory
	pins, err := image.Build(ctx, &out, source, secrets, image.Options{})
	if err != nil {
		panic(err)
	}

	verify := func() error {
		disk, err := image.OpenDisk(bytes.NewReader(out), int64(len(out)))
		if err != nil {
			return err
		}
		return disk.Verify(ctx, secrets.Key[:], pins, nil, image.Options{})
	}
	fmt.Println(pins.Filesystem, verify())
	out[pins.PayloadOffset+100] ^= 1 // one bit of the encrypted root
	fmt.Println(verify() != nil)
	// Output:
	// erofs <nil>
	// true
}
