package kmod

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rootvouch/rootvouch/internal/needs"
	"github.com/rootvouch/rootvouch/test/initramfstest"
)

// rpmbuild makes packages of files with RPM's own tool, one for each compression of
// the payload.
func rpmbuild(t *testing.T, files initramfstest.Files) map[string]string {
	t.Helper()
	tool, work := needs.Tool(t, "rpmbuild"), t.TempDir()
	files.WriteTo(t, filepath.Join(work, "files"))
	spec := filepath.Join(work, "kernel.spec")
	text := "Name: kernel-core\nVersion: 1\nRelease: 1\nSummary: x\nLicense: x\nBuildArch: noarch\nAutoReqProv: no\nRequires: kernel-modules\n" +
		"%description\nx\n%install\nmkdir -p %{buildroot}\ncp -a " + filepath.Join(work, "files") + "/. %{buildroot}\n%files\n/\n"
	if err := os.WriteFile(spec, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	made := map[string]string{}
	for _, payload := range []string{"w3.zstdio", "w1.xzdio", "w1.gzdio", "w.ufdio"} {
		top := filepath.Join(work, payload)
		out, err := exec.Command(tool, "-bb", "--define", "_topdir "+top, "--define", "_binary_payload "+payload,
			"--define", "_binaries_in_noarch_packages_terminate_build 0", spec).CombinedOutput()
		found, _ := filepath.Glob(filepath.Join(top, "RPMS/noarch/*.rpm"))
		if err != nil || len(found) != 1 {
			t.Fatalf("rpmbuild: %v: %s", err, out)
		}
		made[payload] = found[0]
	}
	return made
}

// TestOracleRPM: packages of RPM's own tool are accepted, also in the form of large
// packages and of version 6.
func TestOracleRPM(t *testing.T) {
	files := fakeKernel(t).Under("lib/modules/" + initramfstest.Version)
	files["boot/vmlinuz-"+initramfstest.Version] = []byte("kernel")
	for payload, name := range rpmbuild(t, files) {
		for _, name := range []string{name, stripped(t, name)} {
			tree := openFake(t, name)
			if data, err := tree.Kernel(); err != nil || string(data) != "kernel" {
				t.Errorf("%s: got kernel %q, error %v", payload, data, err)
			}
		}
	}
}

// stripped changes the headers in a package's payload to the form that names files
// by number.
func stripped(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	r := bytes.NewReader(data[rpmLeadSize:])
	signatures, err := readRPMHeader(r)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Seek(int64(-len(signatures.store)&(rpmAlignment-1)), io.SeekCurrent); err != nil {
		t.Fatal(err)
	}
	header, err := readRPMHeader(r)
	if err != nil {
		t.Fatal(err)
	}
	out := bytes.NewBuffer(bytes.Clone(data[:len(data)-r.Len()]))
	payload, done, err := unpacked(bufio.NewReaderSize(r, 1<<16))
	if err != nil {
		t.Fatal(err)
	}
	defer done()
	numbers := map[string]int{}
	for i, f := range header.files() {
		numbers[f.name] = i
	}
	from := out.Len()
	pad := func() { out.Write(make([]byte, -(out.Len()-from)&(cpioAlignment-1))) }
	for {
		var head [cpioHeaderSize]byte
		if _, err := io.ReadFull(payload, head[:]); err != nil {
			t.Fatal(err)
		}
		size, _ := cpioField(head, 6)
		length, _ := cpioField(head, 11)
		rest := make([]byte, length+(-(cpioHeaderSize+length))&(cpioAlignment-1)+size+(-size)&(cpioAlignment-1))
		if _, err := io.ReadFull(payload, rest); err != nil {
			t.Fatal(err)
		}
		file := strings.TrimPrefix(strings.Trim(string(rest[:length-1]), "./"), "/")
		if file == strings.Trim(cpioEnd, "./") {
			out.Write(head[:])
			out.Write(rest)
			break
		}
		number, ok := numbers[file]
		if !ok {
			t.Fatalf("%q is not in the header, which has %v", file, numbers)
		}
		fmt.Fprintf(out, "%s%08x", cpioStripped, number)
		pad()
		out.Write(rest[len(rest)-int(size+(-size)&(cpioAlignment-1)):])
	}
	path := filepath.Join(t.TempDir(), "stripped.rpm")
	if err := os.WriteFile(path, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}
