package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rootvouch/rootvouch/gate"
	"github.com/rootvouch/rootvouch/initramfs"
	"github.com/rootvouch/rootvouch/initramfs/kmod"
	"github.com/rootvouch/rootvouch/test/initramfstest"
	"github.com/rootvouch/rootvouch/test/spiffetest"
)

// newInitramfs makes an initramfs whose boot.json names a command line.
func newInitramfs(t *testing.T) (path, line string) {
	t.Helper()
	var names []string
	for _, p := range initramfs.GuestBinaries() {
		names = append(names, filepath.Base(p))
	}
	tree, err := kmod.Open([]string{initramfstest.Kernel(t)}, "")
	if err != nil {
		t.Fatal(err)
	}
	base, _, err := initramfs.Build(initramfs.Options{Kernel: tree, Modules: initramfs.DefaultModules(), GuestBin: initramfstest.GuestBin(t, names...)})
	if err != nil {
		t.Fatal(err)
	}
	c := initramfstest.BootConfig(spiffetest.New(t).PEM())
	c.CommandLine += " audit=0"
	c.Gate = gate.ID().String()
	whole, err := initramfs.Configure(base, c)
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), "initramfs")
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	return path, c.CommandLine
}

// lineOf is CommandLine for a path alone.
func lineOf(path, given string, isGiven bool) (string, error) {
	c, err := BootConfig(path)
	if err != nil {
		return "", err
	}
	return CommandLine(path, c, given, isGiven)
}

func TestCommandLine(t *testing.T) {
	path, own := newInitramfs(t)
	other := filepath.Join(t.TempDir(), "other")
	if err := os.WriteFile(other, []byte("070701"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, path, given string
		isGiven           bool
		want              string
	}{
		{"boot.json decides", path, "", false, own},
		{"the same is given", path, own, true, own},
		{"another program's initramfs", other, "quiet", true, "quiet"},
		{"another program's, nothing given", other, "", false, ""},
		{"no file", other + "x", "quiet", true, "quiet"},
		{"a pipe", os.DevNull, "", false, ""},
	} {
		if got, err := lineOf(c.path, c.given, c.isGiven); got != c.want || err != nil {
			t.Errorf("%s: got %q, %v, want %q", c.name, got, err, c.want)
		}
	}
	whole := strings.Repeat("x", 2033)
	for given, want := range map[string]string{
		whole: "", whole + "x": "command line is 2034 bytes, want at most 2033",
		"a\nb": "byte 0xa at offset 1", "a\x00": "byte 0x0 at offset 1", "\u00e4": "byte 0xc3 at offset 0", " a": "no space at its ends",
	} {
		for _, path := range []string{other, ""} {
			_, err := lineOf(path, given, true)
			if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
				t.Errorf("%.20q: got %v, want %q", given, err, want)
			}
		}
	}
	for _, given := range []string{"", "console=ttyS0", own + " quiet"} {
		if _, err := lineOf(path, given, true); err == nil || !strings.Contains(err.Error(), "want the command line of") {
			t.Errorf("%q: got error %v, want a refusal", given, err)
		}
	}
}

// TestCheckBootConfig: what PID 1 would power off for is refused before.
func TestCheckBootConfig(t *testing.T) {
	path, _ := newInitramfs(t) // of the emulated platform
	config, err := BootConfig(path)
	if err != nil || config == nil {
		t.Fatalf("got boot.json %v, %v", config, err)
	}
	for _, c := range []struct {
		err  error
		want string
	}{
		{CheckPlatform(path, config, true), ""},
		{CheckPlatform(path, config, false), "has report device virtio-port, want configfs-tsm or sev-guest"},
		{CheckPlatform(os.DevNull, nil, false), ""},
		{CheckBootConfig(path, config, false), ""},
		{CheckBootConfig(path, config, true), "is for a kernel behind the gate, and the kernel is bare"},
		{CheckBootConfig(os.DevNull, nil, true), ""},
	} {
		if c.want == "" && c.err != nil || c.want != "" && (c.err == nil || !strings.Contains(c.err.Error(), c.want)) {
			t.Errorf("got error %v, want %q", c.err, c.want)
		}
	}
}
