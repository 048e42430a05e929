package kek

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rootvouch/rootvouch/kms/kek/provider"
)

// providerVariable makes the test's own binary a provider program, which behaves as its value
// says.
const providerVariable = "ROOTVOUCH_TEST_PROVIDER"

func TestMain(m *testing.M) {
	switch how := os.Getenv(providerVariable); how {
	case "":
		os.Exit(m.Run())
	case "silent":
		io.Copy(io.Discard, os.Stdin)
	case "another":
		os.Stdout.WriteString("hello\n")
	default:
		k := &keeperOfTest{how: how}
		if err := provider.Serve(os.Stdin, os.Stdout, k); err != nil {
			os.Exit(1)
		}
	}
}

// keeperOfTest keeps a key; how says when it fails.
type keeperOfTest struct {
	how   string
	calls int
}

func (k *keeperOfTest) aead() cipher.AEAD {
	block, _ := aes.NewCipher(bytes.Repeat([]byte{9}, 32))
	aead, _ := cipher.NewGCM(block)
	return aead
}

func (k *keeperOfTest) Seal(secret, about []byte) ([]byte, error) {
	nonce := make([]byte, 12)
	rand.Read(nonce)
	return k.aead().Seal(nonce, nonce, secret, about), nil
}

func (k *keeperOfTest) Open(sealed, about []byte) ([]byte, error) {
	k.calls++
	switch {
	case k.how == "token is away":
		return nil, errors.New("the token is away")
	case k.how == "dies" && k.calls == 2:
		os.Exit(1)
	case len(sealed) < 12:
		return nil, provider.ErrWrong
	}
	secret, err := k.aead().Open(nil, sealed[:12], sealed[12:], about)
	if err != nil {
		return nil, provider.ErrWrong
	}
	return secret, nil
}

// programSource is this test's own binary as a provider.
func programSource(t testing.TB, how string) Source {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv(providerVariable, how)
	return Source{Name: "hsm", Program: []string{self}}
}

// tryProvider seals and opens with a source, per release and once at the start.
func tryProvider(t *testing.T, s Source) {
	t.Helper()
	secret, about := []byte("a disk's key"), About("label", []byte("disk"))
	per := s
	per.PerRelease = true
	k, err := per.Load(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	sealed, err := k.Seal(rand.Reader, secret, about)
	if err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if got, err := k.Open(sealed, about); err != nil || !bytes.Equal(got, secret) {
			t.Errorf("got %q, %v", got, err)
		}
	}
	if _, err := k.Open(sealed, About("label", []byte("another disk"))); !errors.Is(err, ErrWrongKey) {
		t.Errorf("for another disk: got error %v, want ErrWrongKey", err)
	}
	if made, err := per.Create(rand.Reader); made != "" || err != nil {
		t.Errorf("Create per release: got %q, %v, want nothing", made, err)
	}

	once := s
	once.WrappedFile = filepath.Join(t.TempDir(), "kek.wrapped")
	if _, err := once.Load(t.Context(), ""); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no file: got error %v", err)
	}
	if made, err := once.Create(rand.Reader); made != once.WrappedFile || err != nil {
		t.Fatalf("Create: got %q, %v", made, err)
	}
	if _, err := once.Create(rand.Reader); !errors.Is(err, os.ErrExist) {
		t.Errorf("second Create: got error %v, want os.ErrExist", err)
	}
	one, err := once.Load(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	again, err := once.Load(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	if sealed, err = one.Seal(rand.Reader, secret, about); err != nil {
		t.Fatal(err)
	}
	if got, err := again.Open(sealed, about); err != nil || !bytes.Equal(got, secret) {
		t.Errorf("opened once at each start: got %q, %v", got, err)
	}
	renamed := once
	renamed.Name = "another"
	if _, err := renamed.Load(t.Context(), ""); !errors.Is(err, ErrWrongKey) {
		t.Errorf("under another name: got error %v, want ErrWrongKey", err)
	}
}

func TestProgram(t *testing.T) { tryProvider(t, programSource(t, "well")) }

// TestProgramFails: a program that fails does not count as a changed key. The server
// restarts a program that has died.
func TestProgramFails(t *testing.T) {
	about := About("label")
	open := func(how string) error {
		s := programSource(t, how)
		s.PerRelease = true
		k, err := s.Load(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		defer k.Close()
		sealed, err := (&keeperOfTest{}).Seal([]byte("secret"), about)
		if err != nil {
			t.Fatal(err)
		}
		for range 4 {
			if _, err = k.Open(sealed, about); err != nil {
				return err
			}
		}
		return nil
	}
	if err := open("token is away"); err == nil || errors.Is(err, ErrWrongKey) || !strings.Contains(err.Error(), "the token is away") {
		t.Errorf("got error %v", err)
	}
	if err := open("another"); err == nil || errors.Is(err, ErrWrongKey) || !strings.Contains(err.Error(), "greeting is") {
		t.Errorf("got error %v", err)
	}
	if err := open("dies"); err != nil {
		t.Errorf("a program that died was not started anew: %v", err)
	}
	s := Source{Program: []string{"/no/such/program"}, PerRelease: true}
	k, err := s.Load(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.Open([]byte("x"), about); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got error %v", err)
	}
}

// standIn speaks the transit API of Vault and OpenBao, as far as it is used: neither of the
// real ones is here.
func standIn(t testing.TB, token string) (address, ca string) {
	t.Helper()
	keeper := &keeperOfTest{}
	mux := http.NewServeMux()
	fail := func(w http.ResponseWriter, status int, text string) {
		w.WriteHeader(status)
		json.NewEncoder(w).Encode(map[string][]string{"errors": {text}})
	}
	handle := func(do func(body map[string]string) (map[string]string, error)) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("X-Vault-Token") != token {
				fail(w, http.StatusForbidden, "permission denied")
				return
			}
			var body map[string]string
			if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
				fail(w, http.StatusBadRequest, err.Error())
				return
			}
			reply, err := do(body)
			if err != nil {
				fail(w, http.StatusBadRequest, "cipher: message authentication failed")
				return
			}
			json.NewEncoder(w).Encode(map[string]any{"request_id": "x", "data": reply})
		}
	}
	decode := func(text string) []byte {
		data, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			t.Error(err)
		}
		return data
	}
	mux.HandleFunc("POST /v1/transit/encrypt/kms", handle(func(body map[string]string) (map[string]string, error) {
		sealed, err := keeper.Seal(decode(body["plaintext"]), decode(body["associated_data"]))
		return map[string]string{"ciphertext": "vault:v1:" + base64.StdEncoding.EncodeToString(sealed), "key_version": "1"}, err
	}))
	mux.HandleFunc("POST /v1/transit/decrypt/kms", handle(func(body map[string]string) (map[string]string, error) {
		data, _ := strings.CutPrefix(body["ciphertext"], "vault:v1:")
		secret, err := keeper.Open(decode(data), decode(body["associated_data"]))
		return map[string]string{"plaintext": base64.StdEncoding.EncodeToString(secret)}, err
	}))
	server := httptest.NewTLSServer(mux)
	t.Cleanup(server.Close)
	ca = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o644); err != nil {
		t.Fatal(err)
	}
	return server.URL, ca
}

func transitSource(t testing.TB) Source {
	t.Helper()
	address, ca := standIn(t, "s.token")
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("s.token\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return Source{Name: "vault", Transit: &Transit{Address: address, Key: "kms", TokenFile: token, CAFile: ca}}
}

func TestTransit(t *testing.T) { tryProvider(t, transitSource(t)) }

// TestTransitFails: what keeps the server from answering is no changed key.
func TestTransitFails(t *testing.T) {
	about := About("label")
	good := transitSource(t)
	k, err := withPerRelease(good).Load(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := k.Seal(rand.Reader, []byte("secret"), about)
	if err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(other, []byte("s.other"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		change func(*Transit)
		want   string
	}{
		{"another token", func(x *Transit) { x.TokenFile = other }, "permission denied"},
		{"no token", func(x *Transit) { x.TokenFile = "/no/such" }, "no such file"},
		{"another CA", func(x *Transit) { x.CAFile = "" }, "certificate"},
		{"a CA file that is none", func(x *Transit) { x.CAFile = x.TokenFile }, "has no certificate"},
		{"another key", func(x *Transit) { x.Key = "other" }, "404"},
		{"nobody there", func(x *Transit) { x.Address = "https://127.0.0.1:1" }, "refused"},
	} {
		bad := good
		x := *good.Transit
		c.change(&x)
		bad.Transit = &x
		k, err := withPerRelease(bad).Load(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := k.Open(sealed, about); err == nil || errors.Is(err, ErrWrongKey) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got error %v, want one with %q", c.name, err, c.want)
		}
	}
}

func withPerRelease(s Source) Source {
	s.PerRelease = true
	return s
}

func TestSourceRefuses(t *testing.T) {
	good := Transit{Address: "https://vault:8200", Key: "kms", TokenFile: "t"}
	for _, c := range []struct {
		name   string
		source Source
		want   string
	}{
		{"name", Source{Name: "A b", File: "x"}, "name of a key-encryption key"},
		{"relative program", Source{Program: []string{"provider"}, PerRelease: true}, "absolute path"},
		{"no program", Source{Program: []string{}, PerRelease: true}, "absolute path"},
		{"neither way", Source{Transit: &good}, "exactly one of wrapped_file and per_release"},
		{"both ways", Source{Transit: &good, WrappedFile: "w", PerRelease: true}, "exactly one of wrapped_file and per_release"},
		{"file per release", Source{File: "x", PerRelease: true}, "go with program or transit"},
		{"no TLS", Source{Transit: &Transit{Address: "http://vault:8200", Key: "kms", TokenFile: "t"}, PerRelease: true}, "want https"},
		{"no key", Source{Transit: &Transit{Address: "https://vault:8200", TokenFile: "t"}, PerRelease: true}, "want a name"},
		{"no token", Source{Transit: &Transit{Address: "https://vault:8200", Key: "kms"}, PerRelease: true}, "token_file"},
	} {
		if err := c.source.Check(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got error %v, want one with %q", c.name, err, c.want)
		}
	}
}

func TestRing(t *testing.T) {
	one, two := mustKEK(t, 1), mustKEK(t, 2)
	about := About("label")
	old := NewRing("one", one)
	sealed, err := old.Seal(rand.Reader, []byte("secret"), about)
	if err != nil || sealed.KEK != "one" {
		t.Fatalf("got %+v, %v", sealed, err)
	}
	r := NewRing("two", two)
	if _, err := r.Open(sealed, about); !errors.Is(err, ErrUnknownKEK) {
		t.Errorf("got error %v, want ErrUnknownKEK", err)
	}
	if err := r.Add("one", one); err != nil {
		t.Fatal(err)
	}
	if err := r.Add("one", two); err == nil {
		t.Error("two keys have one name")
	}
	if got, err := r.Open(sealed, about); err != nil || string(got) != "secret" {
		t.Errorf("got %q, %v", got, err)
	}
	if again, err := r.Seal(rand.Reader, []byte("secret"), about); err != nil || again.KEK != "two" {
		t.Errorf("got %+v, %v", again, err)
	}
	sealed.KEK = "two"
	if _, err := r.Open(sealed, about); !errors.Is(err, ErrWrongKey) {
		t.Errorf("got error %v, want ErrWrongKey", err)
	}
}

func mustKEK(t testing.TB, fill byte) *KEK {
	t.Helper()
	k, err := New(bytes.Repeat([]byte{fill}, Size))
	if err != nil {
		t.Fatal(err)
	}
	return k
}
