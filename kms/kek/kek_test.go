package kek

import (
	"bytes"
	"crypto/rand"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func newKEK(t *testing.T, fill byte) *KEK {
	t.Helper()
	k, err := New(bytes.Repeat([]byte{fill}, Size))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestSeal(t *testing.T) {
	k := newKEK(t, 1)
	about := About("test v1", []byte("a"), []byte("bc"))
	sealed, err := k.Seal(rand.Reader, []byte("secret"), about)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := len(sealed), len("secret")+Overhead; got != want {
		t.Errorf("sealed has %d bytes, want %d", got, want)
	}
	got, err := k.Open(sealed, About("test v1", []byte("a"), []byte("bc")))
	if err != nil || string(got) != "secret" {
		t.Errorf("got %q, %v", got, err)
	}
	for _, c := range []struct {
		name   string
		k      *KEK
		sealed []byte
		about  AAD
	}{
		{"other key", newKEK(t, 2), sealed, about},
		{"other label", k, sealed, About("test v2", []byte("a"), []byte("bc"))},
		{"fields moved", k, sealed, About("test v1", []byte("ab"), []byte("c"))},
		{"field left out", k, sealed, About("test v1", []byte("a"))},
		{"truncated", k, sealed[:len(sealed)-1], about},
		{"empty", k, nil, about},
		{"changed", k, append([]byte{sealed[0] ^ 1}, sealed[1:]...), about},
	} {
		if _, err := c.k.Open(c.sealed, c.about); !errors.Is(err, ErrWrongKey) {
			t.Errorf("%s: got error %v, want ErrWrongKey", c.name, err)
		}
	}
	if _, err := k.Seal(bytes.NewReader(nil), []byte("secret"), about); err == nil {
		t.Error("sealed without randomness")
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "kek")
	if _, err := (Source{File: path}).Create(rand.Reader); err != nil {
		t.Fatal(err)
	}
	if _, err := (Source{File: path}).Create(rand.Reader); !errors.Is(err, os.ErrExist) {
		t.Errorf("second Create: got error %v, want os.ErrExist", err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("got %v, %v, want mode 0600", info.Mode(), err)
	}
	if _, err := (Source{File: path}).Load(t.Context(), ""); err != nil {
		t.Error(err)
	}
	if _, err := (Source{Credential: "kek"}).Load(t.Context(), dir); err != nil {
		t.Error(err)
	}

	write := func(name string, data []byte, perm os.FileMode) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, data, perm); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(p, perm); err != nil {
			t.Fatal(err)
		}
		return p
	}
	link := filepath.Join(dir, "link")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	key := bytes.Repeat([]byte{7}, Size)
	for _, c := range []struct {
		name   string
		source Source
		dir    string
		want   string
	}{
		{"none", Source{}, "", "exactly one"},
		{"both", Source{File: path, Credential: "kek"}, dir, "exactly one"},
		{"absent", Source{File: filepath.Join(dir, "absent")}, "", "no such file"},
		{"group can read", Source{File: write("group", key, 0o640)}, "", "mode 0640"},
		{"world can read", Source{File: write("world", key, 0o604)}, "", "mode 0604"},
		{"short", Source{File: write("short", key[1:], 0o600)}, "", "31 bytes, want 32"},
		{"long", Source{File: write("long", append(key, 1), 0o600)}, "", "33 bytes, want 32"},
		{"zero", Source{File: write("zero", make([]byte, Size), 0o600)}, "", "all zero"},
		{"directory", Source{File: dir}, "", "not a regular file"},
		{"symbolic link", Source{File: link}, "", "symbolic link"},
		{"no credentials", Source{Credential: "kek"}, "", "$CREDENTIALS_DIRECTORY"},
		{"credential outside", Source{Credential: "../kek"}, dir, "want a name"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if _, err := c.source.Load(t.Context(), c.dir); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v, want one with %q", err, c.want)
			}
		})
	}
}
