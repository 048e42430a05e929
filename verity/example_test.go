package verity_test

import (
	"bytes"
	"fmt"

	"github.com/rootvouch/rootvouch/verity"
)

// The root hash of two blocks. A tree is written where the third argument of
// Build is not nil.
func ExampleBuild() {
	data := make([]byte, 2*verity.BlockSize)
	p := verity.Profile(2, []byte("salt"))
	root, err := verity.Build(p, bytes.NewReader(data), nil)
	if err != nil {
		panic(err)
	}
	data[5000] = 1
	other, err := verity.Build(p, bytes.NewReader(data), nil)
	if err != nil {
		panic(err)
	}
	fmt.Printf("%x\n%x\n", root, other)
	// Output:
	// 119b959956474bc90bed05f37f63fc757d81f1cb4bcd4483dd80cf844c16b4fc
	// d9d6e5f335184e2153c98ae043a8ac7fba707aaf8d985a0ac929ad88c5cab1f1
}
