package kmod

import (
	"debug/elf"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rootvouch/rootvouch/test/initramfstest"
)

// fakeKernel returns a module directory. Module a needs b. b needs e and the
// built-in x, and softly c before and d after itself.
func fakeKernel(t testing.TB) initramfstest.Files {
	return initramfstest.Files{
		"modules.builtin":         []byte("kernel/x.ko\nkernel/y-y.ko\n"),
		"modules.builtin.modinfo": []byte("x.license=GPL\x00x.alias=crypto-x\x00"),
		"kernel/a.ko":             initramfstest.Module("a", "depends=b"),
		"kernel/b.ko.xz":          initramfstest.Pack(t, ".xz", initramfstest.Module("b", "depends=e,x", "softdep=pre: c crypto-x post: d gone")),
		"kernel/c.ko.zst":         initramfstest.Pack(t, ".zst", initramfstest.Module("c", "depends=")),
		"kernel/d.ko.gz":          initramfstest.Pack(t, ".gz", initramfstest.Module("d", "depends=b")),
		"kernel/e-e.ko":           initramfstest.Module("e_e"),
		"kernel/e.ko":             initramfstest.Module("e"),
		"kernel/unrelated.ko":     []byte("no module"),
	}
}

func names(s Selection) []string {
	var out []string
	for _, m := range s.Modules {
		out = append(out, m.Name)
	}
	return out
}

// TestSources opens the same kernel in every supported form.
func TestSources(t *testing.T) {
	kernel := fakeKernel(t)
	image := initramfstest.Files{"boot/vmlinuz-" + initramfstest.Version: []byte("kernel")}
	for _, c := range []struct {
		name, base, open, image string
	}{
		{"unpacked package", "usr/lib/modules", "", "boot/vmlinuz-" + initramfstest.Version},
		{"older package", "lib/modules", "", "boot/vmlinuz-" + initramfstest.Version},
		{"lib/modules", "lib/modules", "lib/modules", "boot/vmlinuz-" + initramfstest.Version},
		{"one kernel", "usr/lib/modules", "usr/lib/modules/" + initramfstest.Version, "boot/vmlinuz-" + initramfstest.Version},
		{"elsewhere", "some", "some", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			kernel.Under(c.base+"/"+initramfstest.Version).WriteTo(t, dir)
			image.WriteTo(t, dir)
			want := ""
			if c.image != "" {
				want = filepath.Join(dir, c.image)
			}
			checkFake(t, filepath.Join(dir, c.open), want)
		})
	}
	for _, suffix := range []string{"", ".gz", ".xz", ".zst"} {
		t.Run("deb"+suffix, func(t *testing.T) {
			all := kernel.Under("usr/lib/modules/" + initramfstest.Version)
			for name, data := range image {
				all[name] = data
			}
			all["usr/share/doc/modules.builtin"] = []byte("no kernel")
			all["lib/modules/leftover/kernel/a.ko"] = []byte("no kernel")
			deb := filepath.Join(t.TempDir(), "linux.deb")
			initramfstest.Files{"linux.deb": all.Deb(t, suffix)}.WriteTo(t, filepath.Dir(deb))
			checkFake(t, deb, deb+":boot/vmlinuz-"+initramfstest.Version)
		})
	}
}

func checkFake(t *testing.T, name, image string) {
	t.Helper()
	tree, err := Open([]string{name}, "")
	if err != nil {
		t.Fatal(err)
	}
	if tree.Version() != initramfstest.Version {
		t.Errorf("version is %q, want %q", tree.Version(), initramfstest.Version)
	}
	if tree.KernelPath() != image {
		t.Errorf("kernel is %q, want %q", tree.KernelPath(), image)
	}
	s, err := tree.Select([]Want{{Names: []string{"a"}}, {Names: []string{"y-y"}}, {Names: []string{"zz"}, Optional: true}, {Names: []string{"e-e"}}})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := names(s), []string{"c", "e", "b", "d", "a", "e_e"}; !slices.Equal(got, want) {
		t.Errorf("modules are %q, want %q", got, want)
	}
	if want := []string{"y_y"}; !slices.Equal(s.BuiltIn, want) {
		t.Errorf("built in are %q, want %q", s.BuiltIn, want)
	}
	if want := []string{"gone", "zz"}; !slices.Equal(s.Missing, want) {
		t.Errorf("missing are %q, want %q", s.Missing, want)
	}
}

func TestMergedUsr(t *testing.T) {
	dir := t.TempDir()
	fakeKernel(t).Under("usr/lib/modules/"+initramfstest.Version).WriteTo(t, dir)
	if err := os.Symlink("usr/lib", filepath.Join(dir, "lib")); err != nil {
		t.Fatal(err)
	}
	checkFake(t, dir, "")
}

func TestVersions(t *testing.T) {
	dir := t.TempDir()
	fakeKernel(t).Under("lib/modules/"+initramfstest.Version).WriteTo(t, dir)
	fakeKernel(t).Under("lib/modules/6.13").WriteTo(t, dir)
	initramfstest.Files{"lib/modules/6.11/modules.dep": nil}.WriteTo(t, dir) // left behind by a removed kernel
	if _, err := Open([]string{dir}, ""); err == nil || !strings.Contains(err.Error(), `["6.12.1-fake" "6.13"]`) {
		t.Errorf("got error %v, want one that lists both versions", err)
	}
	if _, err := Open([]string{dir}, "6.11"); err == nil || !strings.Contains(err.Error(), `want "6.11"`) {
		t.Errorf("got error %v, want one about 6.11", err)
	}
	tree, err := Open([]string{dir}, initramfstest.Version)
	if err != nil {
		t.Fatal(err)
	}
	if tree.Version() != initramfstest.Version {
		t.Errorf("version is %q, want %q", tree.Version(), initramfstest.Version)
	}
}

func TestOpenRefuses(t *testing.T) {
	if _, err := Open([]string{filepath.Join(t.TempDir(), "none")}, ""); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got error %v, want %v", err, os.ErrNotExist)
	}
	if _, err := Open([]string{t.TempDir()}, ""); err == nil || !strings.Contains(err.Error(), "found no kernel") {
		t.Errorf("empty directory: got error %v", err)
	}
	good := fakeKernel(t).Under("lib/modules/"+initramfstest.Version).Deb(t, ".xz")
	rpm := fakeKernel(t).Under("lib/modules/"+initramfstest.Version).RPM(t, ".zst", "kernel-core")
	for _, c := range []struct {
		name string
		deb  []byte
		want string
	}{
		{"empty", nil, "it is no package"},
		{"zip", []byte("PK\x03\x04some zip file"), "it is a zip archive: want a directory or a package"},
		{"kernel", append(make([]byte, 0x202), "HdrS"...), "it is a Linux kernel: want a directory or a package"},
		{"Alpine's version 3", []byte("ADBd...."), "apk extract"},
		{"no data", initramfstest.AR("debian-binary", []byte("2.0\n")), "no data.tar"},
		{"other compression", initramfstest.AR("debian-binary", []byte("2.0\n"), "data.tar.lzma", []byte("x")), "compression"},
		{"truncated", good[:len(good)/2], "data.tar.xz"},
		{"bad header", append([]byte(arMagic+"debian-binary"), strings.Repeat("x", arHeaderSize)...), "header"},
		{"no kernel", initramfstest.Files{"boot/x": nil}.Deb(t, ".xz"), "found no kernel"},
		{"rpm, cut off", rpm[:len(rpm)/2], "reading RPM payload"},
		{"rpm, cut off in the lead", rpm[:50], "reading RPM lead"},
		{"rpm, other header", slices.Concat(rpm[:96], []byte("x"), rpm[97:]), "reading RPM signatures: magic"},
		{"rpm, large header", slices.Concat(rpm[:104], []byte("\xff\xff\xff\xff"), rpm[108:]), "reading RPM signatures: got 4294967295 entries"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			initramfstest.Files{"x.deb": c.deb}.WriteTo(t, dir)
			if _, err := Open([]string{filepath.Join(dir, "x.deb")}, ""); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v, want one with %q", err, c.want)
			}
		})
	}
}

func TestSelectRefuses(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(initramfstest.Files)
		want   string
	}{
		{"required module missing", func(f initramfstest.Files) { delete(f, "kernel/a.ko") }, "lacks modules, as files and built in: a or z"},
		{"dependency missing", func(f initramfstest.Files) { delete(f, "kernel/e.ko") }, "depends on e, which is neither"},
		{"two of a name", func(f initramfstest.Files) { f["kernel/z/a.ko"] = f["kernel/a.ko"] }, "want one"},
		{"cycle", func(f initramfstest.Files) { f["kernel/e.ko"] = initramfstest.Module("e", "depends=a") }, "depends on itself"},
		{"damaged", func(f initramfstest.Files) { f["kernel/a.ko"] = f["kernel/a.ko"][:70] }, "reading kernel/a.ko"},
		{"damaged compression", func(f initramfstest.Files) { f["kernel/b.ko.xz"] = f["kernel/b.ko.xz"][:90] }, "decompressing kernel/b.ko.xz"},
		{"other name", func(f initramfstest.Files) { f["kernel/a.ko"] = initramfstest.Module("b") }, `name is "b", want "a"`},
		{"other kernel", func(f initramfstest.Files) {
			f["kernel/a.ko"] = initramfstest.ELF(elf.ET_REL, "name=a", "vermagic=6.13 SMP")
		}, `vermagic is for kernel "6.13", want "6.12.1-fake"`},
		{"program", func(f initramfstest.Files) {
			f["kernel/a.ko"] = initramfstest.ELF(elf.ET_EXEC, "name=a", "vermagic="+initramfstest.Version)
		}, "ELF file is ET_EXEC"},
		{"softdep without kind", func(f initramfstest.Files) { f["kernel/a.ko"] = initramfstest.Module("a", "softdep=b") }, "softdep"},
	} {
		t.Run(c.name, func(t *testing.T) {
			kernel, dir := fakeKernel(t), t.TempDir()
			c.change(kernel)
			kernel.Under("lib/modules/"+initramfstest.Version).WriteTo(t, dir)
			tree, err := Open([]string{dir}, "")
			if err != nil {
				t.Fatal(err)
			}
			if s, err := tree.Select([]Want{{Names: []string{"a", "z"}}}); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %q and error %v, want one with %q", names(s), err, c.want)
			}
		})
	}
}
