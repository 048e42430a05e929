package process

import (
	"io"
	"os"
	"testing"
)

func TestLastLine(t *testing.T) {
	for _, c := range []struct{ log, want string }{
		{"fetchkey: release: disabled\n", "fetchkey: release: disabled"},
		{"warning\nlast \n", "last"},
		{"", "exit status 1"},
		{"\n \n", "exit status 1"},
	} {
		file, err := os.CreateTemp(t.TempDir(), "")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(file, c.log); err != nil {
			t.Fatal(err)
		}
		if got := LastLine(file, "exit status 1"); got != c.want {
			t.Errorf("%q: got %q, want %q", c.log, got, c.want)
		}
		file.Close()
	}
}
