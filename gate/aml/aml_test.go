package aml

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rootvouch/rootvouch/internal/needs"
)

func TestEncoding(t *testing.T) {
	for name, c := range map[string]struct {
		got  []byte
		want string
	}{
		"zero":         {Integer(0), "\x00"},
		"one":          {Integer(1), "\x01"},
		"byte":         {Integer(0xff), "\x0a\xff"},
		"word":         {Integer(0x100), "\x0b\x00\x01"},
		"double word":  {Integer(0x10000), "\x0c\x00\x00\x01\x00"},
		"quad word":    {Integer(1 << 32), "\x0e\x00\x00\x00\x00\x01\x00\x00\x00"},
		"EISA ID":      {EISAID("PNP0A08"), "\x0c\x41\xd0\x0a\x08"},
		"buffer":       {Buffer([]byte("ab")), "\x11\x05\x0a\x02ab"},
		"package":      {Package(Integer(0), Integer(2)), "\x12\x05\x02\x00\x0a\x02"},
		"name":         {Name(`\_S5`, Integer(1)), "\x08\\_S5_\x01"},
		"scope":        {Scope(`\_SB_`, Name("A", Integer(0))), "\x10\x0c\\_SB_\x08A___\x00"},
		"device":       {Device("PCI0"), "\x5b\x82\x05PCI0"},
		"length 63":    {pkgLength(62), "\x3f"},
		"length 65":    {pkgLength(63), "\x41\x04"},
		"length 4095":  {pkgLength(4093), "\x4f\xff"},
		"length 4097":  {pkgLength(4094), "\x81\x00\x01"},
		"two follow":   {pkgLength(1<<20 - 4), "\x8f\xff\xff"},
		"three follow": {pkgLength(1<<20 - 3), "\xc1\x00\x00\x01"},
	} {
		if string(c.got) != c.want {
			t.Errorf("%s: got %x, want %x", name, c.got, c.want)
		}
	}
}

// TestOracle compares the objects with those of the reference compiler.
func TestOracle(t *testing.T) {
	iasl := needs.Tool(t, "iasl")
	source := `DefinitionBlock ("", "SSDT", 2, "AAAAAA", "BBBBBBBB", 1) {
	Name (\A, 0x1234)
	Name (BC, Package () { Zero, One, 0xFF, 0x100, 0x12345678, 0x123456789ABCDEF0 })
	Scope (\_SB) {
		Device (DEV0) {
			Name (_HID, EisaId ("QWE01AF"))
			Name (BIG, Buffer () { ` + strings.TrimSuffix(strings.Repeat("7, ", 70), ", ") + ` })
			Device (D1) { Name (_UID, 255) }
		}
	}
}`
	path := filepath.Join(t.TempDir(), "x.asl")
	if err := os.WriteFile(path, []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(iasl, "-p", strings.TrimSuffix(path, ".asl"), path).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	want, err := os.ReadFile(strings.TrimSuffix(path, ".asl") + ".aml")
	if err != nil {
		t.Fatal(err)
	}
	got := TermList(
		Name(`\A`, Integer(0x1234)),
		Name("BC", Package(Integer(0), Integer(1), Integer(0xff), Integer(0x100), Integer(0x12345678), Integer(0x123456789abcdef0))),
		Scope(`\_SB`, Device("DEV0",
			Name("_HID", EISAID("QWE01AF")),
			Name("BIG", Buffer(bytes.Repeat([]byte{7}, 70))),
			Device("D1", Name("_UID", Integer(255))),
		)),
	)
	if !bytes.Equal(got, want[36:]) {
		t.Errorf("got\n%x, want\n%x", got, want[36:])
	}
}

// TestRefuses: a value without an encoding panics.
func TestRefuses(t *testing.T) {
	for name, f := range map[string]func(){
		"long name":     func() { Name("ABCDE", Integer(0)) },
		"no name":       func() { Name("", Integer(0)) },
		"small letters": func() { Name("abc", Integer(0)) },
		"a digit first": func() { Name("0ABC", Integer(0)) },
		"EISA ID":       func() { EISAID("pnp0A08") },
		"short EISA ID": func() { EISAID("PNP0A0") },
		"many elements": func() { Package(make([]Data, 256)...) },
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s was accepted", name)
				}
			}()
			f()
		}()
	}
}
