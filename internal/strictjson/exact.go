package strictjson

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"strconv"
	"strings"
)

// Exact reads a document that has one form, which its reader knows byte for byte. It takes a
// document only in that form, at a fraction of the cost of Unmarshal. It says nothing about a
// document that it does not take: UnmarshalCanonical does.
type Exact struct {
	rest []byte
	bad  bool
}

// ReadExact begins to read a document.
func ReadExact(data []byte) *Exact { return &Exact{rest: data} }

// Next reports whether the next bytes are text, and reads them if so.
func (e *Exact) Next(text string) bool {
	if !bytes.HasPrefix(e.rest, []byte(text)) {
		return false
	}
	e.rest = e.rest[len(text):]
	return true
}

// Text reads text, which must be there.
func (e *Exact) Text(text string) { e.bad = !e.Next(text) || e.bad }

// Hex reads lower-case hex that fills dst.
func (e *Exact) Hex(dst []byte) {
	n := hex.EncodedLen(len(dst))
	if n > len(e.rest) || bytes.ContainsAny(e.rest[:n], "ABCDEF") {
		e.bad = true
		return
	}
	if _, err := hex.Decode(dst, e.rest[:n]); err != nil {
		e.bad = true
	}
	e.rest = e.rest[n:]
}

// Base64 reads standard base64 with padding, up to the quotation mark that ends its string.
func (e *Exact) Base64() []byte {
	n := max(bytes.IndexByte(e.rest, '"'), 0)
	out, err := base64.StdEncoding.Strict().AppendDecode(make([]byte, 0, base64.StdEncoding.DecodedLen(n)), e.rest[:n])
	if err != nil || base64.StdEncoding.EncodedLen(len(out)) != n { // the decoder skips line breaks
		e.bad = true
		return nil
	}
	e.rest = e.rest[n:]
	return out
}

// Plain reads a string of printable ASCII that encoding/json writes without escapes, up to the
// quotation mark that ends it.
func (e *Exact) Plain() string {
	n := max(bytes.IndexByte(e.rest, '"'), 0)
	s := string(e.rest[:n])
	if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' || strings.ContainsRune(`\<>&`, r) }) {
		e.bad = true
		return ""
	}
	e.rest = e.rest[n:]
	return s
}

// Uint reads a number in its shortest decimal form.
func (e *Exact) Uint() uint64 {
	n := 0
	for n < len(e.rest) && '0' <= e.rest[n] && e.rest[n] <= '9' {
		n++
	}
	v, err := strconv.ParseUint(string(e.rest[:n]), 10, 64)
	if err != nil || strconv.FormatUint(v, 10) != string(e.rest[:n]) {
		e.bad = true
		return 0
	}
	e.rest = e.rest[n:]
	return v
}

// Fail says that a value is not in its form.
func (e *Exact) Fail() { e.bad = true }

// End reports whether the document had the form, and nothing follows.
func (e *Exact) End() bool { return !e.bad && len(e.rest) == 0 }
