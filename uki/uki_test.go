package uki

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rootvouch/rootvouch/internal/needs"
	"github.com/rootvouch/rootvouch/test/childtest"
)

// small is an EFI application with sections, as a linker would write it.
func small(sections ...peSection) []byte {
	const headers, align = 0x400, 0x200
	h := make([]byte, headers)
	copy(h, "MZ")
	le := binary.LittleEndian
	le.PutUint32(h[0x3c:], 0x80)
	copy(h[0x80:], "PE\x00\x00")
	le.PutUint16(h[0x84:], machineAMD64)
	le.PutUint16(h[0x80+coffSections:], uint16(len(sections)))
	le.PutUint16(h[0x80+coffOptionalSize:], 240)
	o := h[0x80+coffSize:]
	le.PutUint16(o, 0x20b)
	le.PutUint32(o[optionalAlignment:], 0x1000)
	le.PutUint32(o[optionalFileAlign:], align)
	le.PutUint32(o[optionalHeaderSize:], headers)
	le.PutUint16(o[optionalSubsystem:], efiApplication)
	le.PutUint16(o[optionalDLL:], nxCompat)
	at := uint32(0x1000)
	for i, s := range sections {
		b := h[0x80+coffSize+240+i*sectionSize:]
		copy(b, s.name)
		room := roundUp(uint32(len(s.data)), align)
		le.PutUint32(b[8:], uint32(len(s.data)))
		le.PutUint32(b[12:], at)
		le.PutUint32(b[16:], room)
		le.PutUint32(b[20:], uint32(len(h)))
		at += roundUp(room, 0x1000)
		h = append(append(h, s.data...), make([]byte, int(room)-len(s.data))...)
	}
	return h
}

func stub() []byte {
	return small(peSection{name: ".text", data: []byte("code")}, peSection{name: ".sbat", data: []byte("sbat,1,x\nstub,1\n")})
}

// kernel is a bzImage as far as a reader of its headers sees.
func kernel() []byte {
	k := small(peSection{name: ".text", data: make([]byte, 0x400)})
	copy(k[0x202:], "HdrS")
	// The version lies in the section; the header at 0x20e is free in small.
	binary.LittleEndian.PutUint16(k[0x20e:], 0x400-0x200)
	copy(k[0x400:], "6.12.1-test (b@x) #1 SMP")
	return k
}

func parts() Parts {
	return Parts{Stub: stub(), OSRelease: []byte("ID=x\n"), CommandLine: "console=ttyS0", Kernel: kernel(), Initramfs: []byte("0707010")}
}

func TestRoundTrip(t *testing.T) {
	p := parts()
	before := bytes.Clone(p.Stub)
	file, err := Build(p)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(before, p.Stub) {
		t.Error("Build changed the stub that it was given")
	}
	image, err := Open(file)
	if err != nil {
		t.Fatal(err)
	}
	if image.CommandLine != p.CommandLine || image.Version != "6.12.1-test" || !bytes.Equal(image.Kernel, p.Kernel) || !bytes.Equal(image.Initramfs, p.Initramfs) {
		t.Errorf("got %q, version %q", image.CommandLine, image.Version)
	}
	if !Is(file) || Is(p.Stub) || Is(p.Kernel) || Is(nil) {
		t.Error("Is takes the one for the other")
	}
	if again, err := Build(p); err != nil || !bytes.Equal(again, file) {
		t.Errorf("built again: other bytes, %v", err)
	}
}

func TestBuildRefuses(t *testing.T) {
	for name, edit := range map[string]func(*Parts){
		"no initramfs":         func(p *Parts) { p.Initramfs = nil },
		"no command line":      func(p *Parts) { p.CommandLine = "" },
		"no stub":              func(p *Parts) { p.Stub = nil },
		"stub is an image":     func(p *Parts) { p.Stub, _ = Build(*p) },
		"signed stub":          func(p *Parts) { p.Stub[0x80+coffSize+optionalSecurity] = 1 },
		"symbols":              func(p *Parts) { p.Stub[0x80+coffSymbols] = 1 },
		"alignment":            func(p *Parts) { p.Stub[0x80+coffSize+optionalFileAlign] = 3 },
		"no room for headers":  func(p *Parts) { binary.LittleEndian.PutUint32(p.Stub[0x80+coffSize+optionalHeaderSize:], 0x200) },
		"stub without sbat":    func(p *Parts) { p.Stub = small(peSection{name: ".text", data: []byte("x")}) },
		"another machine":      func(p *Parts) { p.Stub[0x84]++ },
		"no application":       func(p *Parts) { p.Stub[0x80+coffSize+optionalSubsystem]++ },
		"kernel without HdrS":  func(p *Parts) { p.Kernel[0x202]++ },
		"kernel is no PE":      func(p *Parts) { p.Kernel[0]++ },
		"kernel's version":     func(p *Parts) { copy(p.Kernel[0x400:], "\x00") },
		"kernel's version far": func(p *Parts) { p.Kernel[0x20f] = 0xff },
	} {
		p := parts()
		edit(&p)
		if _, err := Build(p); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	file, err := Build(parts())
	if err != nil {
		t.Fatal(err)
	}
	for n := range file { // cut short
		if n < 0x400 || n%64 == 0 {
			if _, err := Open(file[:n]); !errors.Is(err, ErrNot) {
				t.Fatalf("%d bytes: got error %v, want ErrNot", n, err)
			}
		}
	}
	for _, name := range []string{".linux", ".initrd", ".cmdline"} {
		bad := bytes.Replace(file, []byte(name), []byte(".other"), 1)
		if _, err := Open(bad); !errors.Is(err, ErrNot) {
			t.Errorf("without %s: got error %v, want ErrNot", name, err)
		}
	}
	twice := bytes.Replace(file, []byte(".osrel\x00\x00"), []byte(".initrd\x00"), 1)
	if _, err := Open(twice); err == nil || !strings.Contains(err.Error(), "two sections") {
		t.Errorf("two of a kind: got error %v", err)
	}
}

func FuzzOpen(f *testing.F) {
	file, err := Build(parts())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(file)
	f.Add(stub())
	f.Fuzz(func(t *testing.T, data []byte) {
		image, err := Open(data)
		if err == nil && !Is(data) {
			t.Errorf("%d sections open, and Is says no", len(image.Sections))
		}
	})
}

// TestInteropUkify: the bytes are ukify's for the same parts.
func TestInteropUkify(t *testing.T) {
	root := filepath.Dir(filepath.Dir(filepath.Dir(needs.Part(t, "launchers/root/usr/bin/ukify"))))
	needs.Root(t)
	stub, err := os.ReadFile(filepath.Join(root, "usr/lib/systemd/boot/efi/linuxx64.efi.stub"))
	if err != nil {
		t.Fatal(err)
	}
	kernel, err := os.ReadFile(needs.Part(t, "kernel/boot/vmlinuz-*"))
	if err != nil {
		t.Fatal(err)
	}
	work := t.TempDir()
	for _, p := range []Parts{
		{Stub: stub, CommandLine: "console=ttyS0 panic=-1", Kernel: kernel, Initramfs: bytes.Repeat([]byte("initramfs"), 12345)},
		{Stub: stub, OSRelease: []byte("ID=rootvouch\nNAME=\"a b\"\n"), CommandLine: "a", Kernel: kernel, Initramfs: []byte("x")},
	} {
		ours, err := Build(p)
		if err != nil {
			t.Fatal(err)
		}
		for name, data := range map[string][]byte{"kernel": p.Kernel, "initrd": p.Initramfs, "osrel": p.OSRelease} {
			if err := os.WriteFile(filepath.Join(work, name), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		args := []string{"ukify", "build", "--linux=/tmp/kernel", "--initrd=/tmp/initrd", "--cmdline=" + p.CommandLine, "--output=/tmp/uki.efi",
			"--stub=/usr/lib/systemd/boot/efi/linuxx64.efi.stub", "--os-release="}
		if p.OSRelease != nil {
			args[len(args)-1] += "@/tmp/osrel"
		}
		cmd := childtest.Tied(exec.CommandContext(t.Context(), "unshare", append([]string{"--mount", "sh", "-euc", `mount --bind "$1" "$2/tmp"; shift; exec chroot "$@"`, "sh", work, root}, args...)...))
		cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8"}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("ukify: %v\n%s", err, out)
		}
		theirs, err := os.ReadFile(filepath.Join(work, "uki.efi"))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(ours, theirs) {
			at := 0
			for at < min(len(ours), len(theirs)) && ours[at] == theirs[at] {
				at++
			}
			t.Errorf("%d bytes, ukify's %d: the first that differs is at %#x", len(ours), len(theirs), at)
		}
	}
}
