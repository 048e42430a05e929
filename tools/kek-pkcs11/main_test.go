package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rootvouch/rootvouch/internal/needs"
	"github.com/rootvouch/rootvouch/kms/kek"
)

// TestMain makes the test's own binary the program itself.
func TestMain(m *testing.M) {
	if os.Getenv("ROOTVOUCH_TEST_SELF") != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// newToken makes a token of SoftHSM with a key in it, and says how to start the program.
func newToken(t testing.TB) (argv []string) {
	t.Helper()
	util := needs.Tool(t, "softhsm2-util")
	dir := t.TempDir()
	config, pin := filepath.Join(dir, "softhsm2.conf"), filepath.Join(dir, "pin")
	write := func(path, text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "tokens"), 0o700); err != nil {
		t.Fatal(err)
	}
	write(config, "directories.tokendir = "+filepath.Join(dir, "tokens")+"\nlog.level = ERROR\n")
	write(pin, "1234\n")
	t.Setenv("SOFTHSM2_CONF", config)
	if out, err := exec.Command(util, "--init-token", "--free", "--label", "kms", "--pin", "1234", "--so-pin", "12345678").CombinedOutput(); err != nil {
		t.Fatalf("softhsm2-util: %v\n%s", err, out)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("ROOTVOUCH_TEST_SELF", "1")
	return []string{self, "--module", library(t), "--token", "kms", "--key", "kek", "--pin-file", pin}
}

// library is SoftHSM's.
func library(t testing.TB) string {
	t.Helper()
	for _, pattern := range []string{"/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/*/softhsm/libsofthsm2.so", "/usr/lib64/pkcs11/libsofthsm2.so"} {
		if found, _ := filepath.Glob(pattern); len(found) > 0 {
			return found[0]
		}
	}
	t.Fatal("softhsm2-util is here, and its library is not")
	return ""
}

func create(t testing.TB, argv []string) (string, error) {
	out, err := exec.Command(argv[0], append(argv[1:], "--create")...).CombinedOutput()
	return string(out), err
}

// TestSoftHSM has the key server's own client seal and open with a token.
func TestSoftHSM(t *testing.T) {
	argv := newToken(t)
	about := kek.About("label", []byte("disk"))
	per := kek.Source{Name: "hsm", Program: argv, PerRelease: true}
	k, err := per.Load(context.Background(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	if _, err := k.Seal(rand.Reader, []byte("secret"), about); err == nil {
		t.Error("sealed without a key in the token")
	}
	if out, err := create(t, argv); err != nil || !strings.Contains(out, `made key "kek" in token "kms"`) {
		t.Fatalf("--create: %v\n%s", err, out)
	}
	if out, err := create(t, argv); err == nil || !strings.Contains(out, "already") {
		t.Errorf("--create again: %v\n%s", err, out)
	}
	sealed, err := k.Seal(rand.Reader, []byte("secret"), about)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if got, err := k.Open(sealed, about); err != nil || !bytes.Equal(got, []byte("secret")) {
			t.Errorf("got %q, %v", got, err)
		}
	}
	for i := range sealed {
		bad := bytes.Clone(sealed)
		bad[i] ^= 1
		if _, err := k.Open(bad, about); !errors.Is(err, kek.ErrWrongKey) {
			t.Errorf("byte %d changed: got error %v, want ErrWrongKey", i, err)
		}
	}
	if _, err := k.Open(sealed, kek.About("label", []byte("another"))); !errors.Is(err, kek.ErrWrongKey) {
		t.Errorf("for another disk: got error %v, want ErrWrongKey", err)
	}
	if got, err := k.Open(sealed, about); err != nil || string(got) != "secret" {
		t.Errorf("after all that: got %q, %v", got, err)
	}

	once := kek.Source{Name: "hsm", Program: argv, WrappedFile: filepath.Join(t.TempDir(), "kek.wrapped")}
	if _, err := once.Create(rand.Reader); err != nil {
		t.Fatal(err)
	}
	local, err := once.Load(context.Background(), "")
	if err != nil {
		t.Fatal(err)
	}
	if sealed, err = local.Seal(rand.Reader, []byte("secret"), about); err != nil {
		t.Fatal(err)
	}
	if got, err := local.Open(sealed, about); err != nil || string(got) != "secret" {
		t.Errorf("unwrapped once: got %q, %v", got, err)
	}
}

// TestRefuses says what is wrong, and is no key server's fault.
func TestRefuses(t *testing.T) {
	argv := newToken(t)
	try := func(want string, change func([]string)) {
		t.Helper()
		args := append([]string{}, argv...)
		change(args)
		out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
		if err == nil || !strings.Contains(string(out), want) {
			t.Errorf("got %v\n%s, want %q", err, out, want)
		}
	}
	try("0 tokens", func(a []string) { a[4] = "other" })
	try("0 AES keys", func([]string) {})
	try("loading PKCS #11 library", func(a []string) { a[2] = "/no/such.so" })
	open := filepath.Join(t.TempDir(), "pin")
	if err := os.WriteFile(open, []byte("1234"), 0o644); err != nil {
		t.Fatal(err)
	}
	try("has mode 0644", func(a []string) { a[8] = open })
	wrong := filepath.Join(t.TempDir(), "pin")
	if err := os.WriteFile(wrong, []byte("4321"), 0o600); err != nil {
		t.Fatal(err)
	}
	try("logging in", func(a []string) { a[8] = wrong })
	try("want --module", func(a []string) { a[6] = "" })
}

// BenchmarkOpen is what a release costs more when the token opens each key.
func BenchmarkOpen(b *testing.B) {
	argv := newToken(b)
	if out, err := create(b, argv); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	k, err := kek.Source{Name: "hsm", Program: argv, PerRelease: true}.Load(context.Background(), "")
	if err != nil {
		b.Fatal(err)
	}
	defer k.Close()
	about := kek.About("label")
	sealed, err := k.Seal(rand.Reader, make([]byte, 32), about)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := k.Open(sealed, about); err != nil {
			b.Fatal(err)
		}
	}
}
