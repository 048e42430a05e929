package conf

import (
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/hcl"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/rootvouch/rootvouch/pins"
)

var domain = spiffeid.RequireTrustDomainFromString("example.org")

func server() Server {
	return Server{TrustDomain: domain, Bind: "127.0.0.1:8081", DataDir: "/d", Socket: "/d/s", CADir: "/ca", Plugin: "/bin/plugin",
		PluginSHA256: pins.Digest{0xab}, RefvalFiles: []string{"/a.json", "/b.json"}, CollateralDir: "/crls"}
}

func agent() Agent {
	return Agent{TrustDomain: domain, Server: "[::1]:8081", DataDir: "/d", Socket: "/d/s", TrustBundle: "/ca/root.crt"}
}

// Every setting that is there for a reason reaches the HCL; whether SPIRE takes
// it is shown by test/spire.
func TestServerConfig(t *testing.T) {
	s := server()
	s.AgentPathTemplate = "/{{ .PluginName }}/one"
	text, err := s.Config()
	if err != nil {
		t.Fatal(err)
	}
	var parsed map[string]any
	if err := hcl.Decode(&parsed, string(text)); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	for _, want := range []string{
		`trust_domain = "example.org"`, `attestation = false`, `cache_reload_interval = "100ms"`, `events_based_cache    = true`,
		`bundle_file_path = "/ca/root.crt"`, `refval_files   = ["/a.json", "/b.json"]`, `plugin_checksum = "ab00`,
		`selectors = ["measurement", "root_of_trust", "host_data", `, `agent_path_template = "/{{ .PluginName }}/one"`,
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %q in:\n%s", want, text)
		}
	}
}

func TestAgentConfig(t *testing.T) {
	a := agent()
	a.JoinTokenFile = "/token"
	text, err := a.Config()
	if err != nil {
		t.Fatal(err)
	}
	var parsed map[string]any
	if err := hcl.Decode(&parsed, string(text)); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	for _, want := range []string{`server_address    = "::1"`, `sync_interval = "250ms"`, `discover_workload_path = true`, `join_token_file   = "/token"`} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %q in:\n%s", want, text)
		}
	}
}

func TestRefuses(t *testing.T) {
	for _, c := range []struct {
		name, want string
		change     func(*Server)
	}{
		{"no trust domain", "trust domain", func(s *Server) { s.TrustDomain = spiffeid.TrustDomain{} }},
		{"no port", "bind address", func(s *Server) { s.Bind = "127.0.0.1" }},
		{"port 0", "port", func(s *Server) { s.Bind = "127.0.0.1:0" }},
		{"relative", "absolute", func(s *Server) { s.DataDir = "d" }},
		{"quote", "printable", func(s *Server) { s.Plugin = `/bin/"plugin` }},
		{"interpolation", "printable", func(s *Server) { s.CollateralDir = "/${x}" }},
		{"new line", "printable", func(s *Server) { s.RefvalFiles = []string{"/a\nb"} }},
		{"no files", "none given", func(s *Server) { s.RefvalFiles = nil }},
		{"interval", "interval", func(s *Server) { s.CacheReload = time.Millisecond }},
		{"template", "printable", func(s *Server) { s.AgentPathTemplate = `{{ "x" }}` }},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := server()
			c.change(&s)
			if _, err := s.Config(); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v, want one with %q", err, c.want)
			}
		})
	}
	a := agent()
	a.Sync = 2 * time.Hour
	if _, err := a.Config(); err == nil {
		t.Error("got no error for an interval of 2 hours")
	}
}
