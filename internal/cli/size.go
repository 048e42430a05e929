package cli

import (
	"strconv"

	"github.com/rootvouch/rootvouch/internal/bytesize"
)

// Size is a flag with a number of bytes, in the form of package bytesize.
type Size uint64

// String implements pflag.Value.
func (s *Size) String() string { return strconv.FormatUint(uint64(*s), 10) }

// Type implements pflag.Value.
func (*Size) Type() string { return "bytes" }

// Set implements pflag.Value.
func (s *Size) Set(text string) error {
	n, err := bytesize.Parse(text)
	*s = Size(n)
	return err
}
