package boot

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
)

func TestBarOrders(t *testing.T) {
	for _, c := range []struct {
		name              string
		own, consoleLogin bool
		has, hasNot       []string
	}{
		{"own devices, no login", true, false, []string{"systemd-fstab-generator", "systemd-gpt-auto-generator", "systemd-getty-generator",
			"serial-getty@.service", "emergency.service"}, nil},
		{"any devices, login", false, true, []string{"systemd-gpt-auto-generator", "systemd-ssh-generator"},
			[]string{"systemd-fstab-generator", "systemd-getty-generator", "serial-getty@.service"}},
	} {
		run := t.TempDir()
		if err := barOrders(run, c.own, c.consoleLogin); err != nil {
			t.Fatal(err)
		}
		var masked []string
		found, _ := filepath.Glob(filepath.Join(run, "systemd/system*/*"))
		for _, path := range found {
			if target, err := os.Readlink(path); err != nil || target != "/dev/null" {
				t.Errorf("%s: %s leads to %q (%v)", c.name, path, target, err)
			}
			masked = append(masked, filepath.Base(path))
		}
		for _, name := range c.has {
			if !slices.Contains(masked, name) {
				t.Errorf("%s: %s is not off", c.name, name)
			}
		}
		for _, name := range c.hasNot {
			if slices.Contains(masked, name) {
				t.Errorf("%s: %s is off", c.name, name)
			}
		}
		if text, err := os.ReadFile(filepath.Join(run, "sysctl.d/zz-rootvouch.conf")); err != nil || !bytes.Contains(text, []byte("\nkernel.printk = 0 ")) {
			t.Errorf("%s: sysctl is %q (%v)", c.name, text, err)
		}
		if err := barOrders(run, c.own, c.consoleLogin); err == nil {
			t.Errorf("%s: got no error where something is there already", c.name)
		}
	}
}

func TestWriteMachineID(t *testing.T) {
	random := func() *bytes.Reader { return bytes.NewReader(bytes.Repeat([]byte{0xff}, 16)) }
	const made = "ffffffffffff4fffbfffffffffffffff\n"
	path := filepath.Join(t.TempDir(), "machine-id")
	for name, c := range map[string]struct{ before, after string }{
		"empty":         {"", made},
		"newline":       {"\n", made},
		"uninitialized": {"uninitialized\n", made},
		"of the image":  {"0123456789abcdef0123456789abcdef\n", "0123456789abcdef0123456789abcdef\n"},
	} {
		if err := os.WriteFile(path, []byte(c.before), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := writeMachineID(path, random()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got, _ := os.ReadFile(path); string(got) != c.after {
			t.Errorf("%s: got %q, want %q", name, got, c.after)
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := writeMachineID(path, random()); err != nil {
		t.Error(err)
	}
	if got, _ := os.ReadFile(path); !regexp.MustCompile(`^[0-9a-f]{32}\n$`).Match(got) {
		t.Errorf("absent: got %q, want an ID", got)
	}
	if err := writeMachineID(filepath.Join(t.TempDir(), "etc", "machine-id"), random()); err != nil {
		t.Errorf("without /etc: %v", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := writeMachineID(path, bytes.NewReader(nil)); err == nil || errors.Is(err, os.ErrNotExist) {
		t.Errorf("without randomness: got error %v", err)
	}
}
