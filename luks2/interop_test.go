package luks2

import (
	"bytes"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rootvouch/rootvouch/internal/needs"
	"github.com/rootvouch/rootvouch/pins"
)

func sampleParams() Params {
	random := rand.NewChaCha8([32]byte{1})
	p := Params{UUID: pins.UUID{6: 0x40, 8: 0x80, 15: 9}, SequenceID: 1, VolumeKey: make([]byte, 64), Passphrase: make([]byte, 32), Random: random}
	random.Read(p.VolumeKey)
	random.Read(p.Passphrase)
	return p
}

func mustBuild(t testing.TB, p Params) []byte {
	t.Helper()
	header, err := Build(p)
	if err != nil {
		t.Fatal(err)
	}
	return header
}

func cryptsetup(t *testing.T, args ...string) []byte {
	t.Helper()
	out, err := exec.Command(needs.Tool(t, "cryptsetup"), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("cryptsetup %s: %v: %s", strings.Join(args, " "), err, out)
	}
	return out
}

func write(t *testing.T, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestInteropReadsOurs lets cryptsetup open our header and dump our volume key.
func TestInteropReadsOurs(t *testing.T) {
	p := sampleParams()
	disk := write(t, "disk", append(mustBuild(t, p), make([]byte, 1<<16)...))
	before, err := os.ReadFile(disk)
	if err != nil {
		t.Fatal(err)
	}
	key := write(t, "key", p.Passphrase)
	out := string(cryptsetup(t, "luksDump", disk))
	for _, want := range []string{p.UUID.String(), "aes-xts-plain64", "sector: 4096", "pbkdf2", "Iterations: 1000"} {
		if !strings.Contains(out, want) {
			t.Errorf("luksDump has no %q: %s", want, out)
		}
	}
	cryptsetup(t, "open", "--test-passphrase", "--key-file", key, disk)
	master := filepath.Join(t.TempDir(), "volume")
	cryptsetup(t, "luksDump", "--batch-mode", "--dump-volume-key", "--volume-key-file", master, "--key-file", key, disk)
	got, err := os.ReadFile(master)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, p.VolumeKey) {
		t.Error("cryptsetup got another volume key")
	}
	after, err := os.ReadFile(disk)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(before, after) {
		t.Error("cryptsetup changed the disk: it found something to repair")
	}
	// On a copy, a second passphrase can be added; we do not read that.
	cryptsetup(t, "luksAddKey", "--batch-mode", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-file", key, disk, write(t, "second", []byte("second")))
	after, err = os.ReadFile(disk)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Parse(after[:HeaderSize]); err == nil || !strings.Contains(err.Error(), "got 2 keyslots, want 1") {
		t.Errorf("got error %v for two keyslots", err)
	}
}

// TestInteropReadsTheirs opens what cryptsetup wrote within the profile.
func TestInteropReadsTheirs(t *testing.T) {
	passphrase := []byte("any passphrase of theirs")
	disk := write(t, "disk", make([]byte, 4<<20))
	key := write(t, "key", passphrase)
	cryptsetup(t, "luksFormat", "--batch-mode", "--type", "luks2", "--luks2-metadata-size", "16k",
		"--luks2-keyslots-size", "512k", "--offset", "2048", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000",
		"--sector-size", "4096", "--key-size", "512", "--cipher", "aes-xts-plain64", "--hash", "sha256", "--key-file", key, disk)
	master := filepath.Join(t.TempDir(), "volume")
	cryptsetup(t, "luksDump", "--batch-mode", "--dump-volume-key", "--volume-key-file", master, "--key-file", key, disk)
	want, err := os.ReadFile(master)
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(disk)
	if err != nil {
		t.Fatal(err)
	}
	c, err := Parse(data[:HeaderSize])
	if err != nil {
		t.Fatal(err)
	}
	got, err := c.VolumeKey(passphrase)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("got another volume key than cryptsetup")
	} // What cryptsetup makes of it: outside the profile, until all is in its place.
	other := write(t, "other", bytes.Repeat([]byte{7}, 32))
	pbkdf := []string{"--batch-mode", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"}
	for _, step := range []struct {
		args []string
		want string // in the error; "" for none
	}{
		{append([]string{"luksAddKey", "--key-file", key, disk, other}, pbkdf...), "got 2 keyslots, want 1"},
		{[]string{"luksKillSlot", "--batch-mode", "--key-file", other, disk, "0"}, `keyslots has no member "0"`},
		{append([]string{"luksAddKey", "--key-file", other, "--new-key-slot", "0", disk, key}, pbkdf...), "got 2 keyslots, want 1"},
		{[]string{"luksKillSlot", "--batch-mode", "--key-file", key, disk, "1"}, ""},
		{[]string{"config", "--label", "root", disk}, "label is not zero: byte 0x18 is 0x72"},
		{[]string{"config", "--label", "", disk}, ""},
		{[]string{"config", "--priority", "prefer", "--key-slot", "0", disk}, `"keyslots.0.priority": unknown member`},
		{[]string{"config", "--priority", "normal", "--key-slot", "0", disk}, ""},
		{append([]string{"luksChangeKey", "--key-file", key, disk, other}, pbkdf...), `keyslots.0.area.offset is "290816", want "32768"`},
	} {
		cryptsetup(t, step.args...)
		data, err := os.ReadFile(disk)
		if err != nil {
			t.Fatal(err)
		}
		if step.want != "" {
			refused(t, data[:HeaderSize], step.want)
		} else if _, err := Parse(data[:HeaderSize]); err != nil {
			t.Errorf("after cryptsetup %s: %v", step.args[0], err)
		}
	}
}
