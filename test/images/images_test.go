package images

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/rootvouch/rootvouch/internal/needs"
)

// stranger is a user that the image does not list, such as a cluster assigns.
const stranger = 54321

// write makes an image of programs in /usr/bin.
func write(t *testing.T, programs []string, words ...string) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), "image.tar")
	args := []string{out, "65532"}
	for _, program := range programs {
		args = append(args, "/usr/bin/"+program+"="+needs.Binary(t, program))
	}
	if len(words) > 0 {
		args = append(append(args, "--"), words...)
	}
	cmd := exec.CommandContext(t.Context(), filepath.Join(needs.Repository(t), "scripts", "oci"), args...)
	cmd.Env = append(os.Environ(), "SOURCE_DATE_EPOCH=1700000000")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	data, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// unpack unpacks an image with umoci, and returns its root and its process.
func unpack(t *testing.T, image []byte) (root string, process map[string]any) {
	t.Helper()
	work := t.TempDir()
	layout := filepath.Join(work, "layout")
	for in := tar.NewReader(bytes.NewReader(image)); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(layout, h.Name)
		if h.Typeflag == tar.TypeDir {
			err = os.MkdirAll(path, 0o755)
		} else {
			var data []byte
			if data, err = io.ReadAll(in); err == nil {
				err = os.WriteFile(path, data, 0o644)
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	bundle := filepath.Join(work, "bundle")
	if text, err := exec.CommandContext(t.Context(), needs.Tool(t, "umoci"), "unpack", "--image", layout+":latest", bundle).CombinedOutput(); err != nil {
		t.Fatalf("umoci: %v\n%s", err, text)
	}
	data, err := os.ReadFile(filepath.Join(bundle, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	var config struct {
		Process map[string]any `json:"process"`
	}
	if err := json.Unmarshal(data, &config); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(work, 0o755); err != nil { // the stranger passes through
		t.Fatal(err)
	}
	return filepath.Join(bundle, "rootfs"), config.Process
}

// run runs a program of an image as the stranger, with only the image's files.
func run(t *testing.T, root string, argv ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
	cmd.Dir, cmd.Env = "/", []string{}
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: root, Credential: &syscall.Credential{Uid: stranger, Gid: stranger, NoSetGroups: true}}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// TestKeyServer: the key server's image holds only its programs, has the same bytes
// when it is written again, and makes its store as an unlisted user.
func TestKeyServer(t *testing.T) {
	needs.Root(t)
	words := []string{"serve", "--config", "/etc/rootvouch-kms/kms.json"}
	programs := []string{"rootvouch-kms", "rootvouch"}
	image := write(t, programs, words...)
	if !bytes.Equal(image, write(t, programs, words...)) {
		t.Error("written twice, not the same")
	}
	root, process := unpack(t, image)
	if user := process["user"].(map[string]any); user["uid"] != 65532.0 || user["gid"] != 65532.0 {
		t.Errorf("it runs as %v, want 65532", user)
	}
	var args []string
	for _, word := range process["args"].([]any) {
		args = append(args, word.(string))
	}
	if !slices.Equal(args, append([]string{"/usr/bin/rootvouch-kms"}, words...)) {
		t.Errorf("it runs %q", args)
	}
	var files []string
	if err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			files = append(files, strings.TrimPrefix(path, root))
		}
		return err
	}); err != nil || !slices.Equal(files, []string{"/usr/bin/rootvouch", "/usr/bin/rootvouch-kms"}) {
		t.Errorf("it holds %q, %v, want the programs alone", files, err)
	}
	if out, err := run(t, root, "/usr/bin/rootvouch-kms", "version"); err != nil || !strings.Contains(out, "rootvouch-kms") {
		t.Errorf("version: %v\n%s", err, out)
	}
	// The volumes that a cluster mounts.
	for path, owner := range map[string]int{"etc/rootvouch-kms": 0, "data": stranger} {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(path, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(path, owner, owner); err != nil {
			t.Fatal(err)
		}
	}
	config := `{"version":1,"listen":"127.0.0.1:0","workload_api":"unix:///run/agent.sock","spiffe_id":"spiffe://example.org/kms",
"admin_socket":"/data/admin.sock","store":"/data/kms.db","log_dir":"/data/log","collateral_dir":"/data","kek":{"file":"/data/kek"}}`
	if err := os.WriteFile(filepath.Join(root, "etc/rootvouch-kms/kms.json"), []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := run(t, root, "/usr/bin/rootvouch-kms", "init", "--config", "/etc/rootvouch-kms/kms.json"); err != nil {
		t.Fatalf("init: %v\n%s", err, out)
	}
	if info, err := os.Stat(filepath.Join(root, "data/kms.db")); err != nil || info.Sys().(*syscall.Stat_t).Uid != stranger {
		t.Errorf("the store: %v, want one of user %d", err, stranger)
	}
}

// TestPlugin: the plugin's image holds the program that SPIRE's chart copies. It
// starts as any user, and asks to be started by SPIRE.
func TestPlugin(t *testing.T) {
	needs.Root(t)
	root, _ := unpack(t, write(t, []string{"snp-server-plugin"}))
	out, err := run(t, root, "/usr/bin/snp-server-plugin")
	if _, ended := errors.AsType[*exec.ExitError](err); !ended || !strings.Contains(out, "plugin") {
		t.Errorf("%v\n%s", err, out)
	}
}
