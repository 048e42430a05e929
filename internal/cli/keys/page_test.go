package keys

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rootvouch/rootvouch/internal/cli/image"
	"github.com/rootvouch/rootvouch/internal/command"
)

// TestPage carries the server's page to who knows the address, under the name that was
// printed, and to nobody else.
func TestPage(t *testing.T) {
	socket, _ := startAdmin(t, t.TempDir())
	reader, writer := io.Pipe()
	root := New()
	root.SetArgs([]string{"page", "--kms-socket", socket})
	root.SetOut(writer)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- root.ExecuteContext(ctx) }()
	line, err := bufio.NewReader(reader).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	address := strings.TrimSpace(line)
	ask := func(method, url, host string) (*http.Response, string) {
		t.Helper()
		request, err := http.NewRequest(method, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Host = host
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		data, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return response, string(data)
	}
	response, text := ask("GET", address, "")
	if response.StatusCode != http.StatusOK || !strings.Contains(text, "spiffe://example.org/kms") ||
		!strings.HasPrefix(response.Header.Get("Content-Security-Policy"), "default-src 'none'") {
		t.Errorf("got %s\n%s", response.Status, text)
	}
	if response, text := ask("GET", address+"?after=x", ""); response.StatusCode != http.StatusBadGateway || !strings.Contains(text, "after") {
		t.Errorf("a bad query: got %s\n%s", response.Status, text)
	}
	for _, c := range []struct {
		method, url, host string
		want              int
	}{
		{"GET", address[:strings.LastIndex(strings.TrimSuffix(address, "/"), "/")+1], "", http.StatusNotFound},
		{"GET", address + "x", "", http.StatusNotFound},
		{"GET", address, "example.org", http.StatusNotFound},
		{"POST", address, "", http.StatusMethodNotAllowed},
	} {
		if response, _ := ask(c.method, c.url, c.host); response.StatusCode != c.want {
			t.Errorf("%s of another kind: got %s, want %d", c.method, response.Status, c.want)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	var out bytes.Buffer
	if code := command.Main(New(), []string{"page", "--kms-socket", socket, "--listen", "0.0.0.0:0"}, &out, &out); code != command.ExitUsage {
		t.Errorf("an address of all: exit status %d\n%s", code, &out)
	}
}

// TestBackupAndRewrap are commands of an operator without a word about keys.
func TestBackupAndRewrap(t *testing.T) {
	dir := t.TempDir()
	socket, _ := startAdmin(t, dir)
	keys := func(wantCode int, want string, args ...string) {
		t.Helper()
		var out bytes.Buffer
		code := command.Main(New(), append([]string{args[0], "--kms-socket", socket}, args[1:]...), &out, &out)
		if code != wantCode || !strings.Contains(out.String(), want) {
			t.Errorf("keys %s: exit status %d\n%s, want %d with %q", strings.Join(args, " "), code, &out, wantCode, want)
		}
	}
	copied := filepath.Join(dir, "copy.db")
	keys(0, "wrote "+copied, "backup", "--out", copied)
	keys(command.ExitError, "exists", "backup", "--out", copied)
	if info, err := os.Stat(copied); err != nil || info.Mode().Perm() != 0o600 || info.Size() == 0 {
		t.Errorf("the copy is %v, %v", info, err)
	}
	keys(0, `in use: ["main"]`, "rewrap")
	made := filepath.Join(dir, "made.key")
	keys(0, "made key ", "make", "--key-out", made)
	keys(command.ExitError, "exists", "make", "--key-out", made)
	if info, err := os.Stat(made); err != nil || info.Mode().Perm() != 0o600 || info.Size() != 32 {
		t.Errorf("the key is %v, %v", info, err)
	}
	keys(command.ExitUsage, `required flag(s) "key" not set`, "put", "--spiffe-id", "spiffe://example.org/vm", "--pins", "p", "--refval", "r")
	keys(command.ExitUsage, "want one of --key and --made-key", "put", "--spiffe-id", "spiffe://example.org/vm", "--pins", "p", "--refval", "r", "--key", made, "--made-key", "x")
	disk := filepath.Join(dir, "made")
	if err := os.Mkdir(disk, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(disk, "hostname"), []byte("made"), 0o644); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	build := []string{"build", "--root", disk, "--out", disk + ".img", "--key", made, "--pins-out", disk + ".json"}
	if code := command.Main(image.New(), build, &out, &out); code != 0 {
		t.Fatalf("image build --key: %d\n%s", code, &out)
	}
	if code := command.Main(image.New(), []string{"verify", "--key", made, "--pins", disk + ".json", disk + ".img"}, &out, &out); code != 0 {
		t.Errorf("image verify: %d\n%s", code, &out)
	}
	if code := command.Main(image.New(), append(build, "--key-out", disk+".key"), &out, &out); code != command.ExitUsage {
		t.Errorf("both keys: %d\n%s", code, &out)
	}
	keys(command.ExitError, "break_glass", "export", "--out", filepath.Join(dir, "key.age"), "01000000-0000-0000-0000-000000000000")
	if _, err := os.Stat(filepath.Join(dir, "key.age")); err == nil {
		t.Error("an export that was refused left a file")
	}
}
