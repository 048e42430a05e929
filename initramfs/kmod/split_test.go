package kmod

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/rootvouch/rootvouch/test/initramfstest"
)

// splitKernel is fakeKernel in two parts with its image: what marks a kernel, and
// its modules.
func splitKernel(t testing.TB, image string) (base, modules initramfstest.Files) {
	base, modules = initramfstest.Files{image: []byte("kernel")}, initramfstest.Files{}
	for name, data := range fakeKernel(t) {
		to := modules
		if strings.HasPrefix(name, builtinList) {
			to = base
		}
		to["usr/lib/modules/"+initramfstest.Version+"/"+name] = data
	}
	return base, modules
}

func writeFile(t testing.TB, name string, data []byte) string {
	t.Helper()
	dir := t.TempDir()
	initramfstest.Files{name: data}.WriteTo(t, dir)
	return filepath.Join(dir, name)
}

// packed makes a package of Arch Linux or Alpine: what it says of itself, and its
// files. Alpine's are two streams of gzip without an end of the first tar.
func packed(t testing.TB, alpine bool, files initramfstest.Files, info string) []byte {
	about := initramfstest.Files{".PKGINFO": []byte(info)}
	if alpine {
		return append(initramfstest.Pack(t, ".gz", about.Tar(t, false)), initramfstest.Pack(t, ".gz", files.Tar(t, true))...)
	}
	all := initramfstest.Files{".PKGINFO": []byte(info)}
	for name, data := range files {
		all[name] = data
	}
	return initramfstest.Pack(t, ".zst", all.Tar(t, true))
}

// TestPackages opens a kernel in two packages of each kind, and one that is not
// split; the image is in any place that a distribution has.
func TestPackages(t *testing.T) {
	const version = initramfstest.Version
	for _, image := range []string{"boot/vmlinuz-" + version, "usr/lib/modules/" + version + "/vmlinuz", "boot/vmlinuz-fake"} {
		base, modules := splitKernel(t, image)
		for kind, names := range map[string][]string{
			"deb": {writeFile(t, "a.deb", base.Deb(t, ".xz")), writeFile(t, "b.deb", modules.Deb(t, ".zst"))},
			"rpm": {writeFile(t, "a.rpm", base.RPM(t, ".zst", "kernel-core")), writeFile(t, "b.rpm", modules.RPM(t, ".xz", "kernel-modules"))},
			"pkg.tar.zst": {writeFile(t, "a.pkg.tar.zst", packed(t, false, base, "pkgname = linux\n")),
				writeFile(t, "b.pkg.tar.zst", packed(t, false, modules, "pkgname = linux-modules\n"))},
			"apk": {writeFile(t, "a.apk", packed(t, true, base, "pkgname = linux-lts\n")), writeFile(t, "b.apk", packed(t, true, modules, "pkgname = x\n"))},
		} {
			t.Run(kind+" "+image, func(t *testing.T) {
				tree := openFake(t, names...)
				if want := names[0] + ":" + image; tree.KernelPath() != want {
					t.Errorf("kernel is %q, want %q", tree.KernelPath(), want)
				}
				if data, err := tree.Kernel(); err != nil || string(data) != "kernel" {
					t.Errorf("got kernel %q, error %v", data, err)
				}
			})
		}
		t.Run("two directories "+image, func(t *testing.T) {
			first, second := t.TempDir(), t.TempDir()
			base.WriteTo(t, first)
			modules.WriteTo(t, second)
			if data, err := openFake(t, second, first).Kernel(); err != nil || string(data) != "kernel" {
				t.Errorf("got kernel %q, error %v", data, err)
			}
		})
	}
}

// openFake opens fakeKernel and checks that all its modules are there.
func openFake(t *testing.T, parts ...string) *Tree {
	t.Helper()
	tree, err := Open(parts, "")
	if err != nil {
		t.Fatal(err)
	}
	s, err := tree.Select([]Want{{Names: []string{"a"}}, {Names: []string{"e-e"}}})
	if err != nil {
		t.Fatal(err)
	}
	if got, want := names(s), []string{"c", "e", "b", "d", "a", "e_e"}; !slices.Equal(got, want) {
		t.Errorf("modules are %q, want %q", got, want)
	}
	return tree
}

// TestMissingParts: who names one part of a split kernel is told the others.
func TestMissingParts(t *testing.T) {
	const version = initramfstest.Version
	base, modules := splitKernel(t, "boot/x")
	control := []string{"Package: linux-image-" + version, "Depends: kmod, linux-base (>= 4.3), dracut | linux-initramfs-tool,",
		"Depends: linux-base-" + version + " (= 1), linux-modules-" + version + " (= 1)"}
	empty := writeFile(t, "image.deb", initramfstest.Files{"usr/share/doc/x": nil}.Deb(t, ".xz", control...))
	_, err := Open([]string{empty}, "")
	if want := "name them as well: linux-base-" + version + ", linux-modules-" + version; err == nil || !strings.HasSuffix(err.Error(), want) {
		t.Errorf("empty package: got error %v, want one that ends in %q", err, want)
	}
	named := writeFile(t, "base.deb", base.Deb(t, ".xz", "Package: linux-base-"+version))
	for kind, names := range map[string][]string{
		"deb": {empty, named},
		"rpm": {writeFile(t, "core.rpm", base.RPM(t, "", "kernel-core", "kernel-modules-core-uname-r", "dracut", "kernel-modules-core-uname-r"))},
		"apk": {writeFile(t, "a.apk", packed(t, true, base, "pkgname = a\ndepend = linux-modules-1\ndepend = initramfs-generator\n"))},
	} {
		tree, err := Open(names, "")
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]string{"deb": "name them as well: linux-modules-" + version, "rpm": "name them as well: kernel-modules-core", "apk": "name them as well: linux-modules-1"}[kind]
		if _, err := tree.Select([]Want{{Names: []string{"a"}}}); err == nil || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%s: got error %v, want one that ends in %q", kind, err, want)
		}
	}
	tree := openFake(t, empty, named, writeFile(t, "modules.deb", modules.Deb(t, ".xz", "Package: linux-modules-"+version)))
	if _, err := tree.Kernel(); err == nil || !strings.Contains(err.Error(), "found no image of kernel") {
		t.Errorf("no image: got error %v", err)
	}
	other := writeFile(t, "other.deb", initramfstest.Files{"usr/bin/x": nil}.Deb(t, ".xz", "Package: other", "Depends: libc6"))
	for _, name := range []string{other, t.TempDir()} {
		if _, err := Open([]string{named, name}, ""); err == nil || !strings.Contains(err.Error(), "no part of one, in "+name) {
			t.Errorf("%s is no part of a kernel: got error %v", name, err)
		}
	}
	if _, err := Open([]string{named, named}, ""); err == nil || !strings.Contains(err.Error(), "twice") {
		t.Errorf("one package twice: got error %v", err)
	}
}

// TestLinks: a tree of links is as good as the tree itself, and a link to nothing
// is named.
func TestLinks(t *testing.T) {
	const version = initramfstest.Version
	real := t.TempDir()
	fakeKernel(t).Under(version).WriteTo(t, real)
	kernel := filepath.Join(real, version)
	link := func(t *testing.T, target, name string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(target, name); err != nil {
			t.Fatal(err)
		}
	}
	each := func(t *testing.T, dir string) {
		t.Helper()
		for name := range fakeKernel(t) {
			link(t, filepath.Join(kernel, name), filepath.Join(dir, "lib/modules", version, name))
		}
	}
	for name, make := range map[string]func(t *testing.T, dir string){
		"the version's directory": func(t *testing.T, dir string) { link(t, kernel, filepath.Join(dir, "lib/modules", version)) },
		"every file":              each,
		"the directory kernel": func(t *testing.T, dir string) {
			for _, file := range []string{builtinList, builtinList + ".modinfo", "kernel"} {
				link(t, filepath.Join(kernel, file), filepath.Join(dir, "lib/modules", version, file))
			}
		},
		"a circle, headers and sources": func(t *testing.T, dir string) {
			each(t, dir)
			link(t, "..", filepath.Join(dir, "lib/modules", version, "kernel/up"))
			link(t, kernel, filepath.Join(dir, "lib/modules", version, "build"))
			link(t, "/nowhere", filepath.Join(dir, "lib/modules", version, "source"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			make(t, dir)
			openFake(t, dir)
		})
	}
	dir := t.TempDir()
	each(t, dir)
	module := filepath.Join(dir, "lib/modules", version, "kernel/a.ko")
	if err := os.Remove(module); err != nil {
		t.Fatal(err)
	}
	link(t, "../gone", module)
	tree, err := Open([]string{dir}, "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tree.Select([]Want{{Names: []string{"a"}}}); err == nil || !strings.Contains(err.Error(), "kernel/a.ko is a symbolic link to ../gone, which is not there") {
		t.Errorf("got error %v, want one that names the link", err)
	}
	dir = t.TempDir()
	link(t, "/nowhere", filepath.Join(dir, "lib/modules", version))
	if _, err := Open([]string{dir}, ""); err == nil || !strings.Contains(err.Error(), "is a symbolic link to /nowhere, which is not there") {
		t.Errorf("got error %v, want one that names the link", err)
	}
}

// TestUpdates: what DKMS built wins over what came with the kernel, which wins
// over what was built for another.
func TestUpdates(t *testing.T) {
	for _, c := range []struct{ first, second string }{
		{"updates/dkms/f.ko", "kernel/f.ko"}, {"updates/f.ko", "extra/f.ko"}, {"extra/f.ko", "kernel/f.ko"}, {"kernel/f.ko", "weak-updates/f.ko"},
	} {
		kernel, dir := fakeKernel(t), t.TempDir()
		kernel[c.first] = initramfstest.Module("f", "taken=yes")
		kernel[c.second] = initramfstest.Module("f")
		kernel.Under("lib/modules/"+initramfstest.Version).WriteTo(t, dir)
		tree, err := Open([]string{dir}, "")
		if err != nil {
			t.Fatal(err)
		}
		s, err := tree.Select([]Want{{Names: []string{"f"}}})
		if err != nil || len(s.Modules) != 1 || s.Modules[0].Path != c.first {
			t.Errorf("got %v, error %v, want %s", s.Modules, err, c.first)
		}
	}
}
