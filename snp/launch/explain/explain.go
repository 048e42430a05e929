// Package explain finds which input of a launch differs when a launch digest is not
// the expected one.
//
// It computes the digests near the expected inputs: for every single change and for
// every pair of changes that it knows. A digest does not show how far away it is, so
// a change that the package does not know stays unexplained. Then the answer says
// how many candidates were tried.
package explain

import (
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"strings"

	"github.com/rootvouch/rootvouch/snp/launch"
)

// MaxVCPUs is the highest vCPU count that is tried.
const MaxVCPUs = 512

// sweptVCPUs is the highest vCPU count that is tried together with an unnamed
// CPU signature or set of guest features.
const sweptVCPUs = 16

// maxChanges is the highest number of changes that are combined.
const maxChanges = 2

// Question asks what led to a digest.
type Question struct {
	Got    launch.Sum    // the observed digest
	Inputs launch.Inputs // the inputs that the owner expected
	// CommandLine is the text whose hash is Inputs.Hashes.CommandLine. Without
	// Hashes it is ignored.
	CommandLine string

	// Further values of the inputs, to be tried as well.
	Firmware     []Firmware
	Kernels      []Blob
	Initrds      []Blob
	CommandLines []string
}

// Firmware is a firmware image by name.
type Firmware struct {
	Name     string
	Firmware *launch.Firmware
}

// Blob is a kernel or initramfs by name.
type Blob struct {
	Name   string
	SHA256 [sha256.Size]byte
}

// Change is one input that differs from what was expected.
type Change struct {
	Input string `json:"input"` // "vCPUs", "CPU type", …
	Got   string `json:"got"`   // the value that leads to the digest
	Want  string `json:"want"`  // the value that the owner expected
}

func (c Change) String() string { return fmt.Sprintf("%s: %s, not %s", c.Input, c.Got, c.Want) }

// Answer is the result of a search.
type Answer struct {
	// Explanations are the smallest sets of changes that lead to the digest. If it
	// is empty, the search found none. If it holds one empty set, the inputs lead
	// to the digest without a change.
	Explanations [][]Change
	Tried        int      // digests compared
	Unusable     []string // candidates that no launch can have, and why
}

// String returns one line for each explanation, or says that there is none.
func (a Answer) String() string {
	var b strings.Builder
	switch {
	case len(a.Explanations) == 0:
		fmt.Fprintf(&b, "not explained: no single or double change of these inputs gives this digest (%d tried)\n", a.Tried)
	case len(a.Explanations[0]) == 0:
		fmt.Fprintf(&b, "no difference: these inputs give this digest\n")
	default:
		for _, changes := range a.Explanations {
			parts := make([]string, len(changes))
			for i, c := range changes {
				parts[i] = c.String()
			}
			fmt.Fprintf(&b, "explained by %d of %d tried: %s\n", len(changes), a.Tried, strings.Join(parts, "; and "))
		}
	}
	for _, u := range a.Unusable {
		fmt.Fprintf(&b, "not tried: %s\n", u)
	}
	return b.String()
}

// Search looks for the changes of q.Inputs that lead to q.Got, on all cores. It
// stops with ctx's error when ctx ends.
func Search(ctx context.Context, q Question) (Answer, error) {
	if want := digestSize(q.Inputs.Mode); q.Got.Size() != want {
		return Answer{}, fmt.Errorf("explaining launch digest: it has %d bytes, want %d in mode %v", q.Got.Size(), want, q.Inputs.Mode)
	}
	// The expected inputs must be possible. A neighbour may be impossible.
	expected, err := launch.Compute(q.Inputs)
	if err != nil {
		return Answer{}, fmt.Errorf("explaining launch digest: %w", err)
	}
	if expected == q.Got {
		return Answer{Explanations: [][]Change{{}}, Tried: 1}, nil
	}
	n, err := newNeighbourhood(q)
	if err != nil {
		return Answer{}, fmt.Errorf("explaining launch digest: %w", err)
	}
	return n.search(ctx)
}

func digestSize(m launch.Mode) int {
	if m == launch.SEV || m == launch.SEVES {
		return sha256.Size
	}
	return sha512.Size384
}
