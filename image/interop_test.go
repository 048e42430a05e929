package image

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/aes"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/xts"

	"github.com/rootvouch/rootvouch/image/intake"
	"github.com/rootvouch/rootvouch/image/rootfs"
	"github.com/rootvouch/rootvouch/internal/needs"
	"github.com/rootvouch/rootvouch/pins"
)

// smallTar is a tar with a file larger than a chunk and many small ones.
func smallTar(t testing.TB) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	random := rand.NewChaCha8([32]byte{3})
	for i := range 300 {
		data := make([]byte, i*17%9000)
		if i == 0 {
			data = make([]byte, 3*chunkSize+12345)
		}
		random.Read(data)
		h := &tar.Header{Name: fmt.Sprintf("d%d/f%d", i%7, i), Mode: 0o644, Size: int64(len(data)), ModTime: time.Unix(1700000000+int64(i), 0), Typeflag: tar.TypeReg}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(data); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func tarSource(t testing.TB, data []byte) Source {
	t.Helper()
	tree := rootfs.New()
	if err := (&intake.Reader{Tree: tree}).ReadTar(context.Background(), bytes.NewReader(data), int64(len(data))); err != nil {
		t.Fatal(err)
	}
	s, err := Tree(tree, pins.InitBad)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// seeded returns secrets that are the same each time.
func seeded(t testing.TB, seed byte) *Secrets {
	t.Helper()
	r, err := SeedReader(bytes.Repeat([]byte{seed}, MinSeed))
	if err != nil {
		t.Fatal(err)
	}
	s, err := NewSecrets(r)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// built is a disk in a directory of its own.
type built struct {
	Files
	pins    pins.Pins
	secrets *Secrets
}

func mustBuild(t testing.TB, source Source, options Options) built {
	t.Helper()
	dir := t.TempDir()
	b := built{Files: Files{Disk: filepath.Join(dir, "disk"), Key: filepath.Join(dir, "key"), Pins: filepath.Join(dir, "pins")}, secrets: seeded(t, 1)}
	p, err := BuildFiles(context.Background(), b.Files, source, b.secrets, options)
	if err != nil {
		t.Fatal(err)
	}
	b.pins = p
	b.secrets = seeded(t, 1)
	return b
}

func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(needs.Tool(t, name), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// decrypt takes the volume key out with cryptsetup and decrypts the payload
// with x/crypto: nothing of ours but the disk.
func decrypt(t testing.TB, b built) []byte {
	t.Helper()
	master := filepath.Join(t.TempDir(), "volume")
	run(t, "cryptsetup", "luksDump", "--batch-mode", "--dump-volume-key", "--volume-key-file", master, "--key-file", b.Key, b.Disk)
	key, err := os.ReadFile(master)
	if err != nil {
		t.Fatal(err)
	}
	cipher, err := xts.NewCipher(aes.NewCipher, key)
	if err != nil {
		t.Fatal(err)
	}
	disk, err := os.ReadFile(b.Disk)
	if err != nil {
		t.Fatal(err)
	}
	payload := disk[b.pins.PayloadOffset:][:b.pins.PayloadSize]
	for at := 0; at < len(payload); at += 4096 {
		sector := payload[at : at+4096]
		cipher.Decrypt(sector, sector, uint64(at)/512)
	}
	return payload
}

// accepted lets cryptsetup and veritysetup judge a disk, and returns its
// filesystem.
func accepted(t testing.TB, b built) []byte {
	t.Helper()
	if out := run(t, "cryptsetup", "luksDump", b.Disk); !strings.Contains(out, b.pins.DiskUUID.String()) {
		t.Errorf("luksDump does not show UUID %s: %s", b.pins.DiskUUID, out)
	}
	run(t, "cryptsetup", "open", "--test-passphrase", "--key-file", b.Key, b.Disk)
	payload := decrypt(t, b)
	path := filepath.Join(t.TempDir(), "payload")
	if err := os.WriteFile(path, payload, 0o600); err != nil {
		t.Fatal(err)
	}
	offset := fmt.Sprintf("--hash-offset=%d", b.pins.HashOffset)
	run(t, "veritysetup", "verify", path, path, b.pins.RootHash.String(), offset)
	out := run(t, "veritysetup", "dump", path, offset)
	for _, want := range []string{"Hash type:       \t1", fmt.Sprintf("Data blocks:     \t%d", b.pins.DataBlocks), b.pins.Salt.String()} {
		if !strings.Contains(out, want) {
			t.Errorf("veritysetup dump has no %q: %s", want, out)
		}
	}
	return payload[:b.pins.HashOffset]
}

func TestInteropTools(t *testing.T) {
	accepted(t, mustBuild(t, tarSource(t, smallTar(t)), Options{}))
}

func TestInteropDebian(t *testing.T) {
	source, closeSource, err := Open(context.Background(), Input{Path: needs.Part(t, "root/debian-trixie.tar")})
	if err != nil {
		t.Fatal(err)
	}
	defer closeSource()
	b := mustBuild(t, source, Options{})
	accepted(t, b)
}
