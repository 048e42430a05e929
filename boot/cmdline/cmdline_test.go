package cmdline

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestDefault(t *testing.T) {
	if err := Check(Default()); err != nil {
		t.Error(err)
	}
	for _, w := range Words() {
		if w.Why == "" || strings.ContainsAny(w.Text, " \n") || strings.Contains(w.Why, "\n") {
			t.Errorf("word %q has the reason %q, want one word and one line", w.Text, w.Why)
		}
	}
}

// TestDrivers: the default line bars every driver except the needed ones. It does
// so in one word, because the kernel uses only the last of several such words.
func TestDrivers(t *testing.T) {
	all := Drivers()
	for _, d := range all {
		line := Default(d.Name)
		if err := Check(line); err != nil {
			t.Error(err)
		}
		if got := Barred(line); len(got) != len(all)-1 || slices.Contains(got, d) {
			t.Errorf("a line for a VM that needs %s bars %v", d.Name, got)
		}
		if n := strings.Count(line, barPrefix); n != 1 {
			t.Errorf("the line has the word %d times: %q", n, line)
		}
	}
	if got := Barred(Default()); !slices.Equal(got, all) {
		t.Errorf("the default line bars %v, want %v", got, all)
	}
	var names []string
	for _, d := range all {
		names = append(names, d.Name)
	}
	if line := Default(names...); strings.Contains(line, barPrefix) || len(Barred(line)) != 0 {
		t.Errorf("a line for a VM that needs all of them is %q", line)
	}
	for _, line := range []string{"", "console=ttyS0", "initcall_blacklist=", "x_initcall_blacklist=nvme_init", "initcall_blacklist=nvme_init2"} {
		if got := Barred(line); len(got) != 0 {
			t.Errorf("%q bars %v", line, got)
		}
	}
}

func TestCheck(t *testing.T) {
	pad := func(n int) string { return Default() + " " + strings.Repeat("x", n-len(Default())-1) }
	if err := Check(pad(MaxSize)); err != nil {
		t.Error(err)
	}
	for name, c := range map[string]struct{ line, want string }{
		"long":          {pad(MaxSize + 1), "is 2034 bytes, want at most 2033"},
		"newline":       {Default() + "\nx", "the byte 0xa"},
		"tab":           {Default() + "\tx", "the byte 0x9"},
		"not ASCII":     {Default() + " é", "printable ASCII"},
		"space at end":  {Default() + " ", "no space at its ends"},
		"empty":         {"", `no word "init_on_free=1"`},
		"all that lack": {"console=ttyS0", `no word "pstore.backend=none"`},
		"part of word":  {strings.Replace(Default(), "erst_disable", "erst_disabled", 1), `no word "erst_disable"`},
	} {
		if err := Check(c.line); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got error %v, want one with %q", name, err, c.want)
		}
	}
}

func TestCompare(t *testing.T) {
	line := Default()
	for _, shown := range []string{line, line + "\n", line + " initrd=initrd\n", "initrd=initrd " + line + "\n"} {
		if err := Compare(shown, line); err != nil {
			t.Errorf("%q: %v", shown, err)
		}
	}
	for name, shown := range map[string]string{
		"empty":         "\n",
		"cut":           line[:len(line)-1] + "\n",
		"cut, firmware": "initrd=initrd " + line[:100] + "\n",
		"more":          line + " quiet\n",
		"more before":   "quiet " + line + "\n",
		"other word":    strings.Replace(line, "panic=-1", "panic=0", 1) + "\n",
		"other initrd":  line + " initrd=other\n",
		"twice":         "initrd=initrd " + line + " initrd=initrd\n",
		"two newlines":  line + "\n\n",
	} {
		if err := Compare(shown, line); err == nil || !strings.Contains(err.Error(), "differs from the measured one") {
			t.Errorf("%s: got error %v, want a difference", name, err)
		}
	}
	err := Compare(strings.Replace(line, "panic=-1", "panic=0", 1), line)
	if want := `at byte 42: got "0 init_on_free`; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got error %v, want one with %q", err, want)
	}
}

// TestDocs compares the table of docs/boot.md with the words.
func TestDocs(t *testing.T) {
	doc, err := os.ReadFile(filepath.Join("..", "..", "docs", "boot.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range Words() {
		required := ""
		if w.Required {
			required = "yes"
		}
		if row := "| `" + w.Text + "` | " + w.Why + " | " + required + " |\n"; !strings.Contains(string(doc), row) {
			t.Errorf("docs/boot.md has no row %q", row)
		}
	}
}
