package cli

import (
	"github.com/rootvouch/rootvouch/gate"
	"github.com/rootvouch/rootvouch/uki"
)

// OpenUKI reads a unified kernel image, which may be behind the gate.
func OpenUKI(file []byte) (image uki.Image, gated bool, err error) {
	if gate.Is(file) {
		if file, err = gate.Open(file); err != nil {
			return uki.Image{}, true, err
		}
		gated = true
	}
	image, err = uki.Open(file)
	return image, gated, err
}
