package charts

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	configv1 "github.com/spiffe/spire-plugin-sdk/proto/spire/service/common/config/v1"
	"go.yaml.in/yaml/v3"

	"github.com/rootvouch/rootvouch/internal/needs"
	"github.com/rootvouch/rootvouch/spire/nodeattest/server"
)

// user is the pod's user.
const user = 65532

// pod is a directory with the programs of the image and the volumes of the pod. As
// in a cluster, root owns the volumes, and the pod's group may write them.
type pod struct {
	root string
	spec any
}

func newPod(t *testing.T, values ...string) pod {
	t.Helper()
	needs.Root(t)
	rendered, err := helm(t, append([]string{least}, values...)...)
	if err != nil {
		t.Fatal(err)
	}
	all := objects(t, rendered)
	p := pod{root: t.TempDir(), spec: at(t, all["StatefulSet/kms"], "spec", "template", "spec")}
	if at(t, p.spec, "securityContext", "fsGroup") != user || at(t, p.spec, "securityContext", "runAsUser") != user {
		t.Fatalf("the pod runs as %v, want %d", at(t, p.spec, "securityContext"), user)
	}
	for dir := p.root; dir != "/tmp" && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, program := range []string{"rootvouch-kms", "rootvouch"} {
		p.write(t, "usr/bin/"+program, read(t, needs.Binary(t, program)), 0o755, 0)
	}
	for _, dir := range []string{"var/lib/rootvouch-kms", "var/lib/rootvouch/collateral", "run/rootvouch-kms"} {
		full := filepath.Join(p.root, dir)
		if err := os.MkdirAll(full, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(full, 0, user); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(full, os.ModeSetgid|0o775); err != nil {
			t.Fatal(err)
		}
	}
	p.write(t, "etc/rootvouch-kms/kms.json", []byte(at(t, all["ConfigMap/kms"], "data", "kms.json").(string)), 0o644, user)
	p.write(t, "run/credentials/kms.kek", bytes.Repeat([]byte{7}, 32), 0o440, user)
	return p
}

func (p pod) write(t *testing.T, name string, data []byte, mode os.FileMode, group int) {
	t.Helper()
	path := filepath.Join(p.root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(path, 0, group); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// run runs a container of the pod to its end, by the image's entry point unless it has a
// command, with the environment that the chart gives it.
func (p pod) run(t *testing.T, container any) (string, error) {
	t.Helper()
	argv := []string{"/usr/bin/rootvouch-kms"}
	if command, ok := at(t, container, "command").([]any); ok {
		argv = strs(command)
	}
	args, _ := at(t, container, "args").([]any)
	argv = append(argv, strs(args)...)
	cmd := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
	cmd.Dir, cmd.Env = "/", []string{}
	variables, _ := at(t, container, "env").([]any)
	for _, v := range variables {
		cmd.Env = append(cmd.Env, at(t, v, "name").(string)+"="+at(t, v, "value").(string))
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: p.root, Credential: &syscall.Credential{Uid: user, Gid: user, NoSetGroups: true}}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func strs(all []any) []string {
	var out []string
	for _, v := range all {
		out = append(out, v.(string))
	}
	return out
}

// TestPod: the pod's first container makes the store once, with the volumes' owners
// and the key of the Secret, and does not change it later. After the given time it
// makes no store, and a server without a store does not start.
func TestPod(t *testing.T) {
	p := newPod(t, `createStoreBefore: "2126-12-01T12:00:00Z"`)
	create := at(t, p.spec, "initContainers", 0)
	if out, err := p.run(t, create); err != nil || !strings.Contains(out, "made store") {
		t.Fatalf("create-store: %v\n%s", err, out)
	}
	store := read(t, filepath.Join(p.root, "var/lib/rootvouch-kms/kms.db"))
	if out, err := p.run(t, create); err != nil || out != "" {
		t.Errorf("create-store once more: %v\n%s", err, out)
	}
	if !slices.Equal(store, read(t, filepath.Join(p.root, "var/lib/rootvouch-kms/kms.db"))) {
		t.Error("create-store changed a store that was there")
	}
	// Only the SPIRE agent and a revocation list are missing.
	out, err := p.run(t, map[string]any{"args": []any{"check", "--config", "/etc/rootvouch-kms/kms.json"}, "env": at(t, p.spec, "containers", 0, "env")})
	if err == nil || strings.Contains(out, "kek") && strings.Contains(out, "mode") {
		t.Errorf("check: %v\n%s", err, out)
	}
	t.Logf("check says:\n%s", out)

	late := newPod(t, `createStoreBefore: "2020-12-01T12:00:00Z"`)
	if out, err := late.run(t, at(t, late.spec, "initContainers", 0)); err == nil || !strings.Contains(out, "none may be made") {
		t.Errorf("create-store too late: %v\n%s", err, out)
	}
	if out, err := late.run(t, at(t, late.spec, "containers", 0)); err == nil || !strings.Contains(out, "kms.db") {
		t.Errorf("serve without a store: %v\n%s", err, out)
	}
}

// TestCRLJob: the owner's tool accepts the job's command, which fails because there
// is no service.
func TestCRLJob(t *testing.T) {
	p := newPod(t)
	rendered, err := helm(t, least, `crl: {baseURL: "http://127.0.0.1:1"}`)
	if err != nil {
		t.Fatal(err)
	}
	pod := at(t, objects(t, rendered)["CronJob/kms-crl"], "spec", "jobTemplate", "spec", "template", "spec")
	if claim := at(t, pod, "volumes", 0, "persistentVolumeClaim", "claimName"); claim != "collateral-kms-0" {
		t.Errorf("it fills claim %v, want the server's", claim)
	}
	container := at(t, pod, "containers", 0).(object)
	var args []any
	for _, a := range at(t, container, "args").([]any) {
		args = append(args, strings.Replace(a.(string), "=/collateral", "=/var/lib/rootvouch/collateral", 1))
	}
	container["args"] = append(args, "--every=1m") // so that it says at once what it thinks of the rest
	out, err := p.run(t, container)
	if err == nil || !strings.Contains(out, "--every is 1m0s") {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestSPIREValues: our plugin accepts the plugin_data of the values for SPIRE's
// chart, with reference values in a directory as a ConfigMap makes it. The owner's
// tool accepts the sidecar's command.
func TestSPIREValues(t *testing.T) {
	var values any
	if err := yaml.Unmarshal(read(t, filepath.Join(needs.Repository(t), "deploy/spire-values.yaml")), &values); err != nil {
		t.Fatal(err)
	}
	plugin := at(t, values, "spire-server", "customPlugins", "nodeAttestor", "amd_sev_snp").(map[string]any)
	data := plugin["plugin_data"].(map[string]any)
	var mounts []string
	for _, m := range at(t, values, "spire-server", "extraVolumeMounts").([]any) {
		mounts = append(mounts, at(t, m, "mountPath").(string))
	}
	for _, name := range []string{"refval_dir", "collateral_dir"} {
		if !slices.Contains(mounts, data[name].(string)) {
			t.Errorf("%s is %v, which no volume is mounted at: %q", name, data[name], mounts)
		}
		data[name] = t.TempDir()
	}
	hcl, err := json.Marshal(data)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := server.New(time.Now, rand.Reader).Configure(t.Context(), &configv1.ConfigureRequest{HclConfiguration: string(hcl),
		CoreConfiguration: &configv1.CoreConfiguration{TrustDomain: "example.org"}}); err != nil {
		t.Errorf("plugin_data: %v", err)
	}
	sidecar := at(t, values, "spire-server", "extraContainers", 0)
	if path := at(t, sidecar, "volumeMounts", 0, "mountPath"); at(t, sidecar, "args", 2) != "--collateral-dir="+path.(string) {
		t.Errorf("the sidecar fetches to another place than %v: %v", path, at(t, sidecar, "args"))
	}
}
