package agent

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rootvouch/rootvouch/boot/bootconfig"
	"github.com/rootvouch/rootvouch/internal/needs"
)

func sampleConfig() bootconfig.Config {
	return bootconfig.Config{
		TrustDomain:  "example.org",
		SPIRE:        bootconfig.SPIRE{Addresses: []string{"[2001:db8::1]:8081"}, TrustRoot: "PEM"},
		KMS:          bootconfig.KMS{Addresses: []string{"kms.example.org:8443"}, SPIFFEID: "spiffe://example.org/kms"},
		ReportDevice: bootconfig.ReportConfigfsTSM,
		Gate:         bootconfig.GateNone,
	}
}

func TestAgentConfig(t *testing.T) {
	got, err := agentConfig(sampleConfig(), "[2001:db8::1]:8081")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`server_address    = "2001:db8::1"`, `server_port       = "8081"`, `trust_domain      = "example.org"`,
		`trust_bundle_path = "/run/spire/trust_root.pem"`, `socket_path       = "/run/spire/agent.sock"`, `retry_bootstrap   = false`,
		`plugin_cmd = "/bin/snp-agent-plugin"`, `device = "configfs-tsm"`, `discover_workload_path = true`,
		`sync_interval = "100ms"`, // docs/spire.md has the cost
	} {
		if !strings.Contains(string(got), want) {
			t.Errorf("got no %s in:\n%s", want, got)
		}
	}
	for _, never := range []string{"insecure", "trust_bundle_url", "join_token", "$"} {
		if strings.Contains(string(got), never) {
			t.Errorf("got %q in:\n%s", never, got)
		}
	}
}

// TestOracleAgentConfig asks the stock agent.
func TestOracleAgentConfig(t *testing.T) {
	agent := needs.Part(t, "spire/1.13.3/spire-agent")
	config, err := agentConfig(sampleConfig(), "[2001:db8::1]:8081")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "agent.conf")
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(string(config), bootconfig.AgentDataDir, dir)), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(agent, "validate", "-config", path).CombinedOutput()
	if err != nil {
		t.Errorf("spire-agent validate: %v\n%s\n%s", err, out, config)
	}
}

func TestLastLogError(t *testing.T) {
	for _, c := range []struct{ name, log, want string }{
		{"empty", "", ""},
		{"info only", `{"level":"info","msg":"Starting agent"}`, ""},
		{"error with reason", `{"level":"error","msg":"Agent crashed","error":"no route"}` + "\n" + `{"level":"info","msg":"bye"}`, "Agent crashed: no route"},
		{"last of two", `{"level":"error","msg":"one"}` + "\n" + `{"level":"fatal","msg":"two"}` + "\n", "two"},
		{"plain lines", "first\nunknown setting\n", "unknown setting"},
		{"error before plain lines", `{"level":"error","msg":"one"}` + "\nplain\n", "one"},
		{"cut off at the start", `el":"error","msg":"half"}` + "\n" + `{"level":"error","msg":"whole"}`, "whole"},
	} {
		if got := lastLogError([]byte(c.log)); got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}
