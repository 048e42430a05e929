package cli

import "testing"

func TestSize(t *testing.T) {
	for text, want := range map[string]Size{
		"0": 0, "4096": 4096, "1K": 1 << 10, "3M": 3 << 20, "10G": 10 << 30, "1T": 1 << 40, "10GB": 10e9, "8388607T": 8388607 << 40,
	} {
		var got Size
		if err := got.Set(text); err != nil || got != want {
			t.Errorf("%q: got %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "G", "-1", "1.5G", "10gb", "10Gi", "10g", "1 G", "G10", "0x10", "8388608T", "9223372036854775808", "18446744073709551616"} {
		var got Size
		if err := got.Set(text); err == nil {
			t.Errorf("%q: got %d and no error", text, got)
		}
	}
}
