package agentconf

import (
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/hcl"
)

// HCL is read back by the parser that SPIRE uses. Package test/spire runs the
// stock agent with both forms.
func TestHCL(t *testing.T) {
	base := Agent{TrustDomain: "example.org", Host: "::1", Port: 8081, DataDir: "/d", Socket: "/d/s", TrustBundle: "/root.pem", Sync: 100 * time.Millisecond}
	for _, c := range []struct {
		name        string
		attestor    Attestor
		want, never []string
	}{
		{"snp", SNP{Plugin: "/bin/p", Device: "configfs-tsm"}, []string{`NodeAttestor "amd_sev_snp"`, `KeyManager "memory"`, `plugin_cmd = "/bin/p"`, `retry_bootstrap   = false`},
			[]string{"device_path", "join_token", "insecure"}},
		{"snp, named device", SNP{Plugin: "/bin/p", Device: "virtio-port", DevicePath: "/dev/p"}, []string{`device_path = "/dev/p"`}, nil},
		{"join token", JoinToken{File: "/token", Keys: "/keys"}, []string{`NodeAttestor "join_token"`, `join_token_file   = "/token"`, `directory = "/keys"`},
			[]string{"amd_sev_snp", "memory", "retry_bootstrap", "insecure"}},
		{"attested before", JoinToken{Keys: "/keys"}, []string{`NodeAttestor "join_token"`}, []string{"join_token_file"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := base
			a.Attestor = c.attestor
			text := string(a.HCL())
			var parsed struct {
				Agent struct {
					Address string `hcl:"server_address"`
					Port    string `hcl:"server_port"`
				} `hcl:"agent"`
			}
			if err := hcl.Decode(&parsed, text); err != nil {
				t.Fatalf("%v\n%s", err, text)
			}
			if a := parsed.Agent; a.Address != "::1" || a.Port != "8081" {
				t.Errorf("got %+v", a)
			}
			for _, s := range c.want {
				if !strings.Contains(text, s) {
					t.Errorf("got no %s in:\n%s", s, text)
				}
			}
			for _, s := range c.never {
				if strings.Contains(text, s) {
					t.Errorf("got %s in:\n%s", s, text)
				}
			}
		})
	}
}
