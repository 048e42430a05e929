package shell

import (
	"os/exec"
	"strings"
	"testing"
)

func TestQuote(t *testing.T) {
	got := Quote("qemu", "-append", "a b'c", "", "x=$HOME", "plain,1")
	if want := `qemu -append 'a b'\''c' '' 'x=$HOME' plain,1`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// sh itself splits what Quote wrote.
func TestOracleShell(t *testing.T) {
	argv := []string{"", " ", "\t\n", "'", `"`, `\`, "$(x)", "`x`", "~", "#a", "*", "[a]", "{a,b}", "a;b", "!", "é", "=x", "a=b"}
	out, err := exec.Command("sh", "-c", "printf '%s\\0' "+Quote(argv...)).Output()
	if err != nil {
		t.Fatal(err)
	}
	if want := strings.Join(argv, "\x00") + "\x00"; string(out) != want {
		t.Errorf("got %q, want %q", out, want)
	}
}
