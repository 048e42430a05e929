// Package bytesize reads numbers of bytes as people write them.
package bytesize

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// units are the suffixes that GNU's coreutils accept after a number.
var units = []struct {
	suffix string
	bytes  uint64
}{
	{"K", 1 << 10}, {"M", 1 << 20}, {"G", 1 << 30}, {"T", 1 << 40},
	{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40},
	{"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"TB", 1e12},
}

// Parse parses a number of bytes. The number may have a suffix: K, M, G, T or KiB to TiB for
// powers of 1024, KB to TB for powers of 1000.
func Parse(text string) (uint64, error) {
	digits, unit := text, uint64(1)
	for _, u := range units {
		if before, ok := strings.CutSuffix(text, u.suffix); ok {
			digits, unit = before, u.bytes
		}
	}
	n, err := strconv.ParseUint(digits, 10, 64)
	if err != nil || n > math.MaxInt64/unit {
		return 0, fmt.Errorf("got %q, want bytes, such as 10737418240, 10G or 10GB", text)
	}
	return n * unit, nil
}
