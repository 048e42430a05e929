package initramfs

import (
	"bytes"
	"strings"
	"testing"

	"github.com/rootvouch/rootvouch/test/initramfstest"
	"github.com/rootvouch/rootvouch/test/spiffetest"
)

func TestCommandLine(t *testing.T) {
	base, _ := mustBuild(t, fakeOptions(t))
	c := initramfstest.BootConfig(spiffetest.New(t).PEM())
	c.CommandLine += " audit=0"
	whole := mustConfigure(t, base, c)
	if line, ok, err := CommandLine(whole); line != c.CommandLine || !ok || err != nil {
		t.Errorf("got %q, %v, %v, want %q", line, ok, err, c.CommandLine)
	}
	for name, data := range map[string][]byte{
		"empty": nil, "base": base, "gzip": []byte("\x1f\x8b\x08\x00"), "cpio": []byte("070701"), "cut": base[:100],
		"another's behind it": append(bytes.Clone(base), make([]byte, 512)...),
	} {
		if line, ok, err := CommandLine(data); line != "" || ok || err != nil {
			t.Errorf("%s: got %q, %v, %v, want none", name, line, ok, err)
		}
	}
	broken := bytes.Replace(whole, []byte(`"command_line"`), []byte(`"command_lime"`), 1)
	if _, _, err := CommandLine(broken); err == nil || !strings.Contains(err.Error(), "command_lime") {
		t.Errorf("got error %v, want one about the member", err)
	}
}
