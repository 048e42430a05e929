package luks2

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestInteropAuthenticated lets cryptsetup read a volume's header, and dump its volume
// key. That it opens one is shown in a VM, where there is a device-mapper (package boot).
func TestInteropAuthenticated(t *testing.T) {
	p := sampleParams()
	p.VolumeKey, p.Authenticated = append(p.VolumeKey, bytes.Repeat([]byte{7}, MACKeySize)...), true
	disk := write(t, "disk", append(mustBuild(t, p), make([]byte, 16<<20)...))
	key := write(t, "key", p.Passphrase)
	out := string(cryptsetup(t, "luksDump", disk))
	for _, want := range []string{p.UUID.String(), "aes-xts-plain64", "integrity: hmac(sha256)", "sector: 4096"} {
		if !strings.Contains(out, want) {
			t.Errorf("luksDump has no %q: %s", want, out)
		}
	}
	master := filepath.Join(t.TempDir(), "volume")
	cryptsetup(t, "luksDump", "--batch-mode", "--dump-volume-key", "--volume-key-file", master, "--key-file", key, disk)
	if got, err := os.ReadFile(master); err != nil || !bytes.Equal(got, p.VolumeKey) {
		t.Errorf("cryptsetup got another volume key: %v", err)
	}
}
