package nodeattest

import (
	"strings"
	"testing"
)

func TestHello(t *testing.T) {
	if err := CheckHello(Hello()); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"", `{"version":2}`, `{"version":1} `, strings.Repeat("x", 1<<20)} {
		if err := CheckHello([]byte(bad)); err == nil {
			t.Errorf("%.20q: got no error", bad)
		}
	}
}

func TestParseChallenge(t *testing.T) {
	for _, size := range []int{0, 31, 33, 64} {
		if _, err := ParseChallenge(make([]byte, size)); err == nil {
			t.Errorf("%d bytes: got no error", size)
		}
	}
	if nonce, err := ParseChallenge(append([]byte{7}, make([]byte, 31)...)); err != nil || nonce[0] != 7 {
		t.Errorf("got %v, %v", nonce, err)
	}
}

func TestDecodeConfig(t *testing.T) {
	type config struct {
		Name  string   `hcl:"name"`
		Files []string `hcl:"files"`
	}
	for _, c := range []struct{ text, want string }{
		{`name = "a"` + "\n" + `files = ["b", "c"]`, ""},
		{``, ""},
		{`nam = "a"`, `unknown key "nam"`},
		{`Name = "a"`, `unknown key "Name"`},
		{`name = "a"` + "\n" + `name = "b"`, "comes twice"},
		{`files = ["a"]` + "\n" + `files = ["b"]`, "comes twice"},
		{`name "x" { y = 1 }`, "want key = value"},
		{`name = {`, "decoding configuration"},
		{`name = ["a"]`, "decoding configuration"},
		{strings.Repeat("#", maxConfig+1), "at most"},
	} {
		var got config
		err := DecodeConfig(c.text, &got, "name", "files")
		if c.want == "" {
			if err != nil {
				t.Errorf("%.40q: %v", c.text, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.40q: got error %v, want one with %q", c.text, err, c.want)
		}
	}
	var got config
	if err := DecodeConfig("name = <<END\na\nEND", &got, "name"); err != nil || got.Name != "a\n" {
		t.Errorf("heredoc: got %+v, %v", got, err)
	}
	if err := DecodeConfig(`name = "a"`, &got, "name", "files"); err != nil || got.Name != "a" {
		t.Errorf("got %+v, %v", got, err)
	}
}
