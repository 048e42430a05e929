package cli

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Size is a flag of bytes: a number, or one with K, M, G or T behind it, in
// powers of 1024.
type Size uint64

// String implements pflag.Value.
func (s *Size) String() string { return strconv.FormatUint(uint64(*s), 10) }

// Type implements pflag.Value.
func (*Size) Type() string { return "bytes" }

// Set implements pflag.Value.
func (s *Size) Set(text string) error {
	digits, shift := text, 0
	if unit := strings.IndexAny(text, "KMGT"); unit > 0 && unit == len(text)-1 {
		digits, shift = text[:unit], 10*(1+strings.IndexByte("KMGT", text[unit]))
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil || n > math.MaxInt64>>shift {
		return fmt.Errorf("got %q, want bytes, such as 10737418240 or 10G", text)
	}
	*s = Size(n << shift)
	return nil
}
