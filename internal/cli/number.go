package cli

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rootvouch/rootvouch/snp/launch"
)

// number is the value of a flag that takes a decimal number, or a hexadecimal one after 0x.
type number[T uint32 | uint64] struct{ value *T }

func (n number[T]) Set(text string) error {
	digits, base := text, 10
	if after, ok := strings.CutPrefix(strings.ToLower(text), "0x"); ok {
		digits, base = after, 16
	}
	v, err := strconv.ParseUint(digits, base, 64)
	if err != nil || uint64(T(v)) != v {
		return fmt.Errorf("got %q, want a number such as 10 or 0x1f, up to %#x", text, ^T(0))
	}
	*n.value = T(v)
	return nil
}

func (n number[T]) String() string {
	if n.value == nil {
		return "0"
	}
	if *n.value < 10 {
		return strconv.FormatUint(uint64(*n.value), 10)
	}
	return fmt.Sprintf("%#x", *n.value)
}

// Type names the flag's value in the help.
func (number[T]) Type() string { return "number" }

// CPUTypes are the names of QEMU's CPU types whose launch digests are known.
func CPUTypes() (names []string) {
	for _, c := range launch.CPUTypes() {
		names = append(names, c.Name)
	}
	return names
}

// Number adds a flag that takes a number.
func Number[T uint32 | uint64](cmd *cobra.Command, p *T, name string, value T, usage string) {
	*p = value
	cmd.Flags().Var(number[T]{p}, name, usage)
}
