package boot_test

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"github.com/rootvouch/rootvouch/boot"
)

// shown returns the forms in which text shows a secret, or the start of one: a
// long line is cut.
func shown(text string, secret []byte) []string {
	start := secret[:12]                            // bytes: too long for a coincidence, and a multiple of 3
	inner := func(format string, b []byte) string { // without the closing character
		return strings.TrimRight(fmt.Sprintf(format, b), `"]})`)
	}
	quoted := func(b []byte) string { return strings.TrimPrefix(inner("%q", b), `"`) }
	forms := map[string]string{
		"raw":                 string(start),
		"raw, cleaned":        boot.Clean(string(secret)),
		"lower hex":           fmt.Sprintf("%x", start),
		"upper hex":           fmt.Sprintf("%X", start),
		"hex with spaces":     fmt.Sprintf("% x", start),
		"hex with colons":     strings.ReplaceAll(fmt.Sprintf("% x", start), " ", ":"),
		"%v":                  strings.TrimPrefix(inner("%v", start), "["),
		"%v with commas":      strings.ReplaceAll(strings.TrimPrefix(inner("%v", start), "["), " ", ","),
		"%q":                  quoted(start[:8]), // the next byte could join the last rune
		"%+q":                 strings.TrimPrefix(inner("%+q", start[:8]), `"`),
		"%#v":                 strings.TrimPrefix(inner("%#v", start), "[]byte{"),
		"%q of a quoted line": quoted([]byte(quoted(start[:8]))),
	}
	for shift := range 3 { // base64 within something longer
		for name, e := range map[string]*base64.Encoding{"base64": base64.RawStdEncoding, "base64url": base64.RawURLEncoding} {
			forms[fmt.Sprintf("%s, shifted by %d", name, shift)] = e.EncodeToString(secret[shift:][:12])
		}
	}
	var found []string
	for name, form := range forms {
		if strings.Contains(text, form) {
			found = append(found, name)
		}
	}
	return found
}

// TestShown checks that the search finds each form of a secret.
func TestShown(t *testing.T) {
	secret := make([]byte, 64)
	for i := range secret {
		secret[i] = byte(i*37 + 0xd1)
	}
	b64 := base64.StdEncoding
	for name, text := range map[string]string{
		"raw":         string(secret),
		"cleaned":     boot.Clean("x " + string(secret) + " y"),
		"hex":         fmt.Sprintf("%x", secret),
		"HEX":         fmt.Sprintf("%X", secret),
		"cut hex":     fmt.Sprintf("%x", secret)[:24],
		"spaced":      fmt.Sprintf("% x", secret),
		"%v":          fmt.Sprint(secret),
		"%v of array": fmt.Sprint([64]byte(secret)),
		"%+v":         fmt.Sprintf("%+v", struct{ Key [64]byte }{[64]byte(secret)}),
		"%#v":         fmt.Sprintf("%#v", secret),
		"%q":          fmt.Sprintf("%q", secret),
		"%q twice":    fmt.Sprintf("%q", fmt.Sprintf("%q", secret)),
		"%+q":         fmt.Sprintf("%+q", secret),
		"base64":      b64.EncodeToString(secret),
		"base64url":   base64.URLEncoding.EncodeToString(secret),
		"base64 + 1":  b64.EncodeToString(append([]byte("x"), secret...)),
		"base64 + 2":  b64.EncodeToString(append([]byte("xx"), secret...)),
	} {
		if len(shown("rootvouch: "+name+": "+text+" (1 ms)\n", secret)) == 0 {
			t.Errorf("%s is not found in %q", name, text)
		}
	}
	if found := shown("rootvouch: start: kernel 6.12, 2 CPUs", secret); len(found) > 0 {
		t.Errorf("got %q in text without the secret", found)
	}
}

// wantNoSecrets searches the host's view of a VM for the key and the volume key of
// its disk, and for released keys.
func (v *vm) wantNoSecrets(what, seen string) {
	v.t.Helper()
	secrets := map[string][]byte{"key": v.secrets.Key[:], "released key": v.release.Key[:], "volume key": v.secrets.VolumeKey[:]}
	for i, key := range v.volumeKeys {
		secrets[fmt.Sprintf("key of volume %d", i)] = key[:]
	}
	for name, secret := range secrets {
		if found := shown(seen, secret); len(found) > 0 {
			v.t.Errorf("%s: shows the %s, as %q", what, name, found)
		}
	}
}
