package admin

import (
	"crypto/sha256"
	"encoding/base64"
	"strings"
)

// pageStyle is the digest of the page's one style sheet, which the page's content security
// policy allows.
var pageStyle = func() string {
	_, rest, found := strings.Cut(pageText, "<style>")
	sheet, _, ends := strings.Cut(rest, "</style>")
	if !found || !ends {
		panic("admin: internal error: the page has no style sheet")
	}
	sum := sha256.Sum256([]byte(sheet))
	return base64.StdEncoding.EncodeToString(sum[:])
}()
