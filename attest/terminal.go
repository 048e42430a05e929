package attest

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// harmless is an error whose text may hold bytes from a peer. The owner's terminal
// shows the text, and must not execute it as control sequences.
type harmless struct{ error }

func (h harmless) Error() string { return printable(h.error.Error()) }
func (h harmless) Unwrap() error { return h.error }

// Printable returns text, which may hold bytes from a peer, as one line without
// terminal control sequences.
func Printable(text string) string { return printable(text) }

// printable returns text on one line, with unprintable characters escaped. It joins
// the lines of a text, such as those of joined errors, into one.
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
