package attest

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// harmless is an error whose text may hold what a peer sent. It is shown to the
// owner, whose terminal must not take it for commands.
type harmless struct{ error }

func (h harmless) Error() string { return printable(h.error.Error()) }
func (h harmless) Unwrap() error { return h.error }

// Printable returns text that may hold what a peer sent as one line that a terminal
// does not take for commands.
func Printable(text string) string { return printable(text) }

// printable returns text on one line, and what is not printable escaped. Lines, as
// those of joined errors, become clauses.
func printable(text string) string {
	var b strings.Builder
	for i, r := range text {
		_, size := utf8.DecodeRuneInString(text[i:])
		switch {
		case r == '\n':
			b.WriteString("; ")
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, text[i])
		case unicode.IsPrint(r):
			b.WriteRune(r)
		case r < utf8.RuneSelf:
			fmt.Fprintf(&b, `\x%02x`, r)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}
