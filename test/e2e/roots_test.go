package e2e

import (
	"archive/tar"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/rootvouch/rootvouch/boot/bootconfig"
	"github.com/rootvouch/rootvouch/demo"
	"github.com/rootvouch/rootvouch/internal/needs"
	"github.com/rootvouch/rootvouch/spire/agentconf"
)

// file is one file of a root tree that a test makes.
type file struct {
	name string
	mode int64
	data []byte
}

// rootTar writes a root tree.
func rootTar(t *testing.T, files ...file) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "root.tar")
	out, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	w := tar.NewWriter(out)
	made := map[string]bool{}
	for _, f := range files {
		for i, char := range f.name {
			if dir := f.name[:i]; char == '/' && !made[dir] {
				made[dir] = true
				if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755}); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: f.name, Mode: f.mode, Size: int64(len(f.data))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(f.data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

// smallRoot returns a root that no boot should reach.
func (c *chain) smallRoot(t *testing.T) string {
	t.Helper()
	return rootTar(t, file{"sbin/init", 0o755, []byte("not reached\n")})
}

// attackerRoot returns a root whose init is the attacker, with all files that PID 1
// had.
func (c *chain) attackerRoot(t *testing.T, diskUUID string) string {
	t.Helper()
	init := filepath.Join(t.TempDir(), "init")
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", init, "./attacker")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the attacker: %v\n%s", err, out)
	}
	files := []file{
		{"sbin/init", 0o755, read(t, init)},
		{"jail/etc/disk-uuid", 0o644, []byte(diskUUID)},
		{"jail/etc/passwd", 0o644, []byte("root:x:0:0:root:/:/bin/false\n")},
		{"jail/etc/group", 0o644, []byte("root:x:0:\n")},
		// Its pins are those of another disk. fetchkey does not read them.
		{"jail/etc/rootvouch/boot.json", 0o644, read(t, c.web.BootConfig())},
		{"jail/etc/trust_root.pem", 0o644, read(t, c.TrustRoot())},
		{"jail/etc/agent.conf", 0o644, c.attackerAgentConfig(t)},
	}
	for _, name := range []string{"spire-agent", "snp-agent-plugin", "fetchkey"} {
		files = append(files, file{"jail/bin/" + name, 0o755, read(t, needs.Binary(t, "guest/"+name))})
	}
	return rootTar(t, files...)
}

func (c *chain) attackerAgentConfig(t *testing.T) []byte {
	t.Helper()
	host, port, err := bootconfig.SplitAddress(c.SPIREAddress())
	if err != nil {
		t.Fatal(err)
	}
	return agentconf.Agent{
		TrustDomain: demo.TrustDomain, Host: host, Port: port, DataDir: "/run/spire", Socket: "/run/spire/agent.sock",
		TrustBundle: "/etc/trust_root.pem", Sync: 250 * time.Millisecond,
		Attestor: agentconf.SNP{Plugin: "/bin/snp-agent-plugin", Device: "virtio-port"},
	}.HCL()
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
