package tables_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rootvouch/rootvouch/boot/bootconfig"
	"github.com/rootvouch/rootvouch/boot/tables"
	"github.com/rootvouch/rootvouch/gate/program"
	"github.com/rootvouch/rootvouch/test/acpitest"
)

// sysfs makes the directory that the kernel of a gated guest with two processors
// shows.
func sysfs(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, data := range acpitest.Gated(2) {
		put(t, dir, "acpi/tables/"+name, string(data))
	}
	for _, empty := range []string{"acpi/tables/data", "acpi/tables/dynamic", "memmap"} {
		if err := os.MkdirAll(filepath.Join(dir, empty), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	put(t, dir, "efi/systab", "ACPI20=0x3d9fb000\n")
	put(t, dir, "efi/config_table", "0x3f76e018\n")
	return dir
}

func put(t *testing.T, dir, name, data string) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestCheck(t *testing.T) {
	said, err := tables.Check(sysfs(t), program.ID().String())
	if err != nil || !strings.Contains(said, "tables are those of gate") {
		t.Errorf("got %q, %v", said, err)
	}
	said, err = tables.Check("/nowhere", bootconfig.GateNone)
	if err != nil || !strings.Contains(said, "not gated") {
		t.Errorf("got %q, %v", said, err)
	}
}

func TestCheckRefuses(t *testing.T) {
	own := program.ID().String()
	for want, edit := range map[string]func(dir string) string{
		"and this init is made for":        func(string) string { return strings.Repeat("ab", 32) },
		`there is dmi`:                     func(dir string) string { put(t, dir, "dmi/tables/DMI", "x"); return own },
		`there is efi/esrt`:                func(dir string) string { put(t, dir, "efi/esrt", "x"); return own },
		`there is dynamic/SSDT1`:           func(dir string) string { put(t, dir, "acpi/tables/dynamic/SSDT1", "x"); return own },
		`"HPET" "MCFG" "SSDT"]`:            func(dir string) string { put(t, dir, "acpi/tables/SSDT", "x"); return own },
		`got ["DSDT" "FACP"`:               func(dir string) string { os.Remove(filepath.Join(dir, "acpi/tables/APIC")); return own },
		"table DSDT has 3 bytes":           func(dir string) string { put(t, dir, "acpi/tables/DSDT", "xyz"); return own },
		"want ACPI20 alone":                func(dir string) string { put(t, dir, "efi/systab", "ACPI20=0x1000\nSMBIOS=0x2000\n"); return own },
		`got "ACPI=0x1000"`:                func(dir string) string { put(t, dir, "efi/systab", "ACPI=0x1000\n"); return own },
		"efi/systab: no such file":         func(dir string) string { os.Remove(filepath.Join(dir, "efi/systab")); return own },
		"has more than 65536 bytes":        func(dir string) string { put(t, dir, "acpi/tables/MCFG", strings.Repeat("x", 1<<17)); return own },
		"looking for tables of the host: ": func(dir string) string { os.RemoveAll(dir); return own },
	} {
		dir := sysfs(t)
		if said, err := tables.Check(dir, edit(dir)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %q, %v, want %q", said, err, want)
		}
	}
}
