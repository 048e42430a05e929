package e2e

import (
	"archive/tar"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/rootvouch/rootvouch/demo"
	"github.com/rootvouch/rootvouch/internal/needs"
	"github.com/rootvouch/rootvouch/kms/adminapi"
	"github.com/rootvouch/rootvouch/test/vmtest"
)

// volumeUnit prints the volume's former content, writes to it, and powers off.
const volumeUnit = `[Unit]
Description=a service that writes to its volume
DefaultDependencies=yes
After=multi-user.target
RequiresMountsFor=/data

[Service]
Type=oneshot
StandardOutput=tty
TTYPath=/dev/console
ExecStart=/bin/sh -c 'echo "volume has: $(cat /data/count 2>/dev/null)."; echo "$(cat /data/count 2>/dev/null)x" >/data/count; sync; systemctl --no-block poweroff'
`

// toolRoot returns the Debian root with a mkfs and the unit.
func (c *chain) toolRoot(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "root.tar")
	out, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	w := tar.NewWriter(out)
	in, err := os.Open(c.Parts.Root)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	for r := tar.NewReader(in); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(w, r); err != nil {
			t.Fatal(err)
		}
	}
	add := func(name string, mode int64, data []byte) {
		if err := w.WriteHeader(&tar.Header{Name: "./" + name, Typeflag: tar.TypeReg, Mode: mode, Size: int64(len(data))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	// A private directory: the root has libraries of another release.
	const private = "opt/mkfs"
	program := needs.Tool(t, "mkfs.ext4")
	libraries, err := exec.Command("ldd", program).Output()
	if err != nil {
		t.Fatal(err)
	}
	loader := ""
	for _, found := range regexp.MustCompile(`(/[^ ]+) \(0x`).FindAllStringSubmatch(string(libraries), -1) {
		name := private + "/" + filepath.Base(found[1])
		add(name, 0o755, read(t, found[1]))
		if strings.Contains(found[1], "ld-linux") {
			loader = "/" + name
		}
	}
	add(private+"/mkfs.ext4.real", 0o755, read(t, program))
	add("usr/sbin/mkfs.ext4", 0o755, []byte("#!/bin/sh\nexec "+loader+" --library-path /"+private+" /"+private+"/mkfs.ext4.real \"$@\"\n"))
	add("etc/mke2fs.conf", 0o644, read(t, "/etc/mke2fs.conf"))
	add("etc/systemd/system/count.service", 0o644, []byte(volumeUnit))
	if err := w.WriteHeader(&tar.Header{Name: "./etc/systemd/system/multi-user.target.wants/count.service", Typeflag: tar.TypeSymlink,
		Linkname: "../count.service", Mode: 0o777}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestVolume follows a volume through its life, with stock systemd and the real key
// server. The owner makes it at the desk, the first launch formats it, and each
// power-off closes it. Each launch finds it as it was closed, and refuses an older
// state.
func TestVolume(t *testing.T) {
	c := setUp(t)
	g := c.guest(t, "db")
	if err := c.BuildImage(t.Context(), g, c.toolRoot(t)); err != nil {
		t.Fatal(err)
	}
	path := func(name string) string { return filepath.Join(g.Dir, name) }
	must(t)(c.Rootvouch(t.Context(), "volume", "create", "--size", "64M", "--out", path("data.img"), "--key-out", path("data.key"), "--pins-out", path("data.json")))
	if err := c.buildInitramfs(t.Context(), t, g, "--mount", path("data.json")+":/data"); err != nil {
		t.Fatal(err)
	}
	if err := c.register(t.Context(), g); err != nil {
		t.Fatal(err)
	}
	uuid := c.putVolume(t, g)
	state := func() adminapi.Volume {
		t.Helper()
		var v adminapi.Volume
		if err := json.Unmarshal(must(t)(c.Rootvouch(t.Context(), "keys", "volume", "show", "--kms-socket", c.KMSSocket(), "--json", uuid)), &v); err != nil {
			t.Fatal(err)
		}
		return v
	}
	boot := func() *vmtest.Machine {
		t.Helper()
		vm := c.machine(t, g)
		vm.Volumes = []string{path("data.img")}
		return c.watch(t, vm)
	}
	since := len(c.auditLog(t))
	for count, words := range []string{"is new, and formatted", "is as it was closed, generation 1", "is as it was closed, generation 2"} {
		m := boot()
		m.Expect("rootvouch: volume: /data " + words)
		m.Expect("volume has: " + strings.Repeat("x", count) + ".")
		m.Expect("rootvouch: close: /data, generation ")
		m.PoweredOff()
		if v := state(); v.State != "closed" || v.Generation != uint64(count+1) {
			t.Fatalf("after launch %d: volume is %+v, want it closed, generation %d", count+1, v, count+1)
		}
		if count == 1 {
			if out, err := exec.Command("cp", "--sparse=always", path("data.img"), path("yesterday.img")).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		}
	}
	c.audited(t, since, `"event":"volume close"`, `"generation":3`, uuid)
	must(t)(c.Rootvouch(t.Context(), "volume", "verify", "--key", path("data.key"), "--contents", state().Digest.String(), path("data.img")))

	if err := os.Rename(path("yesterday.img"), path("data.img")); err != nil {
		t.Fatal(err)
	}
	boot().Refused("volume", "it was rolled back, exchanged or damaged")
	if v := state(); v.State != "open" {
		t.Errorf("after the refusal the volume is %s, want open: the key server does not know that nothing was written", v.State)
	}
	must(t)(c.Rootvouch(t.Context(), "keys", "volume", "free", "--kms-socket", c.KMSSocket(), uuid))
	must(t)(c.Rootvouch(t.Context(), "keys", "volume", "accept", "--kms-socket", c.KMSSocket(), uuid))
	m := boot()
	m.Expect("rootvouch: volume: /data is accepted as it is, by the operator's word")
	m.Expect("volume has: xx.")
	m.Expect("rootvouch: close: /data, generation 4")
	m.PoweredOff()
}

// putVolume registers the volume of a guest, and returns its UUID.
func (c *chain) putVolume(t *testing.T, g demo.Guest) string {
	t.Helper()
	must(t)(c.Rootvouch(t.Context(), "keys", "volume", "put", "--kms-socket", c.KMSSocket(), "--spiffe-id", g.WorkloadID(),
		"--pins", filepath.Join(g.Dir, "data.json"), "--refval", g.Refval(), "--key", filepath.Join(g.Dir, "data.key")))
	var p struct {
		UUID string `json:"disk_uuid"`
	}
	if err := json.Unmarshal(read(t, filepath.Join(g.Dir, "data.json")), &p); err != nil {
		t.Fatal(err)
	}
	return p.UUID
}
