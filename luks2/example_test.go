package luks2_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"

	"github.com/rootvouch/rootvouch/luks2"
	"github.com/rootvouch/rootvouch/pins"
)

// A header is built, parsed, and opened with its passphrase. Keys and randomness
// are fixed here; a real header takes them from crypto/rand.
func Example() {
	random := rand.NewChaCha8([32]byte{1})
	p := luks2.Params{
		UUID: pins.UUID{15: 9}, SequenceID: 1, Random: random,
		VolumeKey: make([]byte, luks2.VolumeKeySize), Passphrase: make([]byte, luks2.PassphraseSize),
	}
	random.Read(p.VolumeKey)
	random.Read(p.Passphrase)
	header, err := luks2.Build(p)
	if err != nil {
		panic(err)
	}
	container, err := luks2.Parse(header)
	if err != nil {
		panic(err)
	}
	key, err := container.VolumeKey(p.Passphrase)
	fmt.Println(container.UUID, bytes.Equal(key, p.VolumeKey), err)
	_, err = container.VolumeKey([]byte("another"))
	fmt.Println(err)
	// Output:
	// 00000000-0000-0000-0000-000000000009 true <nil>
	// wrong key: the keyslot's volume key does not match its digest
}
