package gate_test

import (
	"bytes"
	"debug/pe"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rootvouch/rootvouch/gate"
	"github.com/rootvouch/rootvouch/gate/program"
	"github.com/rootvouch/rootvouch/internal/needs"
)

// bzImage returns the smallest file that is accepted as a kernel.
func bzImage() []byte {
	k := make([]byte, 5008)
	for i := range k {
		k[i] = byte(i * 7)
	}
	copy(k, "MZ")
	k[0x1f1] = 1                                              // setup sectors, after the first
	binary.LittleEndian.PutUint32(k[0x1f4:], (5008-2*512)/16) // the rest, in units of 16 bytes
	copy(k[0x202:], "HdrS")
	binary.LittleEndian.PutUint16(k[0x206:], 0x20f)
	binary.LittleEndian.PutUint16(k[0x236:], 0x3f)
	return k
}

func build(t *testing.T, kernel []byte) []byte {
	t.Helper()
	file, err := gate.Build(kernel)
	if err != nil {
		t.Fatal(err)
	}
	return file
}

// TestBuild checks the file with Go's own reader of PE.
func TestBuild(t *testing.T) {
	kernel := bzImage()
	file := build(t, kernel)
	f, err := pe.NewFile(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	o, ok := f.OptionalHeader.(*pe.OptionalHeader64)
	if !ok || f.Machine != pe.IMAGE_FILE_MACHINE_AMD64 || o.Subsystem != pe.IMAGE_SUBSYSTEM_EFI_APPLICATION {
		t.Fatalf("it is not a 64-bit EFI application: %+v", f.FileHeader)
	}
	if int(o.SizeOfImage) != len(file) || o.AddressOfEntryPoint != program.CodeAt || o.DllCharacteristics != pe.IMAGE_DLLCHARACTERISTICS_NX_COMPAT {
		t.Errorf("optional header is %+v", o)
	}
	for i, want := range []struct {
		name  string
		flags uint32
		data  []byte
	}{
		{".text", pe.IMAGE_SCN_CNT_CODE | pe.IMAGE_SCN_MEM_EXECUTE | pe.IMAGE_SCN_MEM_READ, program.Code()},
		{".data", pe.IMAGE_SCN_CNT_INITIALIZED_DATA | pe.IMAGE_SCN_MEM_READ, program.Data(uint64(f.Sections[2].VirtualAddress), uint64(len(kernel)))},
		{".linux", pe.IMAGE_SCN_CNT_INITIALIZED_DATA | pe.IMAGE_SCN_MEM_READ, kernel},
	} {
		s := f.Sections[i]
		data, err := s.Data()
		if err != nil {
			t.Fatal(err)
		}
		if s.Name != want.name || s.Characteristics != want.flags || s.VirtualAddress != s.Offset || !bytes.Equal(data[:s.VirtualSize], want.data) {
			t.Errorf("section %d is %+v", i, s.SectionHeader)
		}
		if rest := data[s.VirtualSize:]; len(bytes.Trim(rest, "\x00")) > 0 {
			t.Errorf("section %s is followed by something", s.Name)
		}
	}
	if !bytes.Equal(file[0x1f1:0x270], kernel[0x1f1:0x270]) {
		t.Error("the kernel's setup header is not at its place")
	}
	if !bytes.Equal(file, build(t, bzImage())) {
		t.Error("the same kernel gave another gate")
	}
}

func TestBuildRefuses(t *testing.T) {
	for want, edit := range map[string]func(k []byte) []byte{
		"no setup header":      func(k []byte) []byte { k[0x203] = 'x'; return k },
		"no Linux bzImage":     func(k []byte) []byte { return k[:1000] },
		"boot protocol is 0x2": func(k []byte) []byte { k[0x206] = 0x0b; return k },
		"no 64-bit EFI stub":   func(k []byte) []byte { k[0x236] = 0x37; return k },
		"no EFI application":   func(k []byte) []byte { k[0] = 'Z'; return k },
		"cut off: it has 5007": func(k []byte) []byte { return k[:5007] },
		"a gate already":       func(k []byte) []byte { f, _ := gate.Build(k); return f },
	} {
		if _, err := gate.Build(edit(bzImage())); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

// TestOpen changes the headers, the code and the data: Open accepts only files that
// Build returns.
func TestOpen(t *testing.T) {
	kernel := bzImage()
	file := build(t, kernel)
	if got, err := gate.Open(file); err != nil || !bytes.Equal(got, kernel) {
		t.Fatalf("got %d bytes, %v", len(got), err)
	}
	for i := range bytes.Index(file, kernel) {
		if i > 0x400 && i%23 != 0 {
			continue
		}
		file[i] ^= 1
		_, err := gate.Open(file)
		file[i] ^= 1
		if err == nil {
			t.Fatalf("a bit of byte %#x may change", i)
		}
	}
	for _, cut := range []int{0, 10, 63, 64, 0x2000, 0x2010, len(file) - 1, len(file) - 4096} {
		if _, err := gate.Open(file[:cut]); err == nil {
			t.Errorf("a gate of %d bytes was opened", cut)
		}
	}
	file[0x1010] ^= 1
	if _, err := gate.Open(file); !errors.Is(err, gate.ErrOther) {
		t.Errorf("got %v, want ErrOther", err)
	}
}

// TestObjdump checks the file with binutils.
func TestObjdump(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gate.efi")
	if err := os.WriteFile(path, build(t, bzImage()), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(needs.Tool(t, "objdump"), "-x", path).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"pei-x86-64", "EFI application", "SectionAlignment\t00001000", ".text", ".linux", "NX_COMPAT"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("objdump does not say %q:\n%s", want, out)
		}
	}
}

// The stock kernel goes in, and comes out.
func TestStockKernel(t *testing.T) {
	kernel, err := os.ReadFile(needs.Part(t, "kernel/boot/vmlinuz-*"))
	if err != nil {
		t.Fatal(err)
	}
	file := build(t, kernel)
	if got, err := gate.Open(file); err != nil || !bytes.Equal(got, kernel) {
		t.Fatalf("got %d bytes, %v", len(got), err)
	}
	if more := len(file) - len(kernel); more > 5*4096 {
		t.Errorf("the gate adds %d bytes", more)
	}
}
