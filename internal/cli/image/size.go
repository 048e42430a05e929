package image

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// sizeValue is a flag of bytes: a number, or one with K, M, G or T behind it, in
// powers of 1024.
type sizeValue uint64

func (s *sizeValue) String() string { return strconv.FormatUint(uint64(*s), 10) }
func (*sizeValue) Type() string     { return "bytes" }

func (s *sizeValue) Set(text string) error {
	digits, shift := text, 0
	if unit := strings.IndexAny(text, "KMGT"); unit > 0 && unit == len(text)-1 {
		digits, shift = text[:unit], 10*(1+strings.IndexByte("KMGT", text[unit]))
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil || n > math.MaxInt64>>shift {
		return fmt.Errorf("got %q, want bytes, such as 10737418240 or 10G", text)
	}
	*s = sizeValue(n << shift)
	return nil
}
