package bytesize

import "testing"

func TestParse(t *testing.T) {
	for text, want := range map[string]uint64{
		"0": 0, "512": 512, "1K": 1024, "3M": 3 << 20, "8G": 8 << 30, "8GiB": 8 << 30, "8GB": 8_000_000_000, "2T": 2 << 40, "1TB": 1e12, "1KB": 1000, "1KiB": 1024,
		"9223372036854775807": 1<<63 - 1,
	} {
		if got, err := Parse(text); err != nil || got != want {
			t.Errorf("%s: got %d, %v, want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "G", "GB", "-1", "1.5G", "8g", "8 G", "8Gib", "8BG", "8GG", "0x8", "9223372036854775808", "8388608T", "1e3", "8B"} {
		if got, err := Parse(text); err == nil {
			t.Errorf("%q: got %d, want an error", text, got)
		}
	}
}
