package main

import (
	"bytes"
	"os"
	"strings"
	"testing"
)

// A secret on a command line is everybody's: nothing that we tell to type puts a
// join token there.
func TestJoinTokenStaysOffCommandLines(t *testing.T) {
	texts := map[string]string{}
	for _, name := range []string{"agent-config", "join-token"} {
		var out bytes.Buffer
		if code := run([]string{name, "--help"}, &out, &out); code != 0 {
			t.Fatalf("%s", &out)
		}
		texts[name] = out.String()
	}
	guide, err := os.ReadFile("../../docs/spire.md")
	if err != nil {
		t.Fatal(err)
	}
	texts["docs/spire.md"] = string(guide)
	for where, text := range texts {
		if strings.Contains(text, "-joinToken") || !strings.Contains(text, "umask 077") || !strings.Contains(text, "--join-token-file") {
			t.Errorf("%s does not give the token by a file of mode 0600", where)
		}
	}
}
