// Package conf writes configuration for stock SPIRE servers and agents.
//
// A file is complete: SPIRE starts with it unchanged. Its comments explain each setting that
// differs from SPIRE's default. docs/spire.md has the measurements behind the settings.
package conf

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"text/template"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/spire/agentconf"
	"github.com/rootvouch/rootvouch/spire/trust"
)

// Defaults of intervals; see docs/spire.md for what each one costs.
const (
	DefaultCacheReload = 100 * time.Millisecond
	DefaultSync        = 250 * time.Millisecond
)

// DefaultSelectors are the selectors that the entries of package admin use.
func DefaultSelectors() []string {
	return []string{"measurement", "root_of_trust", "host_data", "id_key_digest", "author_key_digest", "family_id", "image_id"}
}

// Server configures a SPIRE server that attests rootvouch VMs. All paths are absolute.
type Server struct {
	TrustDomain spiffeid.TrustDomain
	Bind        string // "host:port", where agents reach the server
	DataDir     string // of the server: database and keys
	Socket      string // unix socket for administration; every process that can open it controls the trust domain
	CADir       string // holds root.crt, upstream.crt and upstream.key of package trust

	Plugin            string      // snp-server-plugin
	PluginSHA256      pins.Digest // SPIRE compares it before it starts the plugin; zero: no comparison
	RefvalFiles       []string
	RefvalDir         string // directory of reference values; required unless there is a file
	CollateralDir     string
	AgentPathTemplate string        // empty: one agent ID for each launch
	Selectors         []string      // selectors of agents; none: DefaultSelectors
	CacheReload       time.Duration // zero: DefaultCacheReload
}

// Agent configures the SPIRE agent on the owner's side. The agent attests by join token and
// gives rootvouch-kms its identity.
type Agent struct {
	TrustDomain   spiffeid.TrustDomain
	Server        string // "host:port"
	DataDir       string
	Socket        string        // of the Workload API
	TrustBundle   string        // root.crt of package trust
	JoinTokenFile string        // empty: the agent has attested before
	Sync          time.Duration // zero: DefaultSync
}

// Config returns a server.conf.
func (s Server) Config() ([]byte, error) {
	c := newChecker()
	c.domain(s.TrustDomain)
	host, port := c.address("bind address", s.Bind)
	c.paths("data directory", s.DataDir)
	c.paths("socket", s.Socket)
	c.paths("CA directory", s.CADir)
	c.paths("plugin", s.Plugin)
	if s.RefvalDir != "" {
		c.paths("directory of reference values", s.RefvalDir)
	}
	if s.RefvalDir == "" || len(s.RefvalFiles) > 0 {
		c.paths("reference values", s.RefvalFiles...)
	}
	c.paths("collateral directory", s.CollateralDir)
	if s.AgentPathTemplate != "" {
		c.text("agent path template", s.AgentPathTemplate)
	}
	selectors := s.Selectors
	if len(selectors) == 0 {
		selectors = DefaultSelectors()
	}
	for _, name := range selectors {
		c.text("selector", name)
	}
	reload := c.interval("cache reload interval", s.CacheReload, DefaultCacheReload)
	if err := c.err(); err != nil {
		return nil, fmt.Errorf("writing server.conf: %w", err)
	}
	checksum := ""
	if s.PluginSHA256 != (pins.Digest{}) {
		checksum = s.PluginSHA256.String()
	}
	return render(serverText, map[string]any{
		"Server": s, "Host": host, "Port": port, "Reload": reload, "Checksum": checksum, "Selectors": selectors,
		"UpstreamCert": filepath.Join(s.CADir, trust.UpstreamCert),
		"UpstreamKey":  filepath.Join(s.CADir, trust.UpstreamKey),
		"Root":         filepath.Join(s.CADir, trust.RootCert),
		"Database":     filepath.Join(s.DataDir, "datastore.sqlite3"),
		"Keys":         filepath.Join(s.DataDir, "keys.json"),
	}), nil
}

// Config returns an agent.conf.
func (a Agent) Config() ([]byte, error) {
	c := newChecker()
	c.domain(a.TrustDomain)
	host, port := c.address("server address", a.Server)
	c.paths("data directory", a.DataDir)
	c.paths("socket", a.Socket)
	c.paths("trust bundle", a.TrustBundle)
	if a.JoinTokenFile != "" {
		c.paths("join token file", a.JoinTokenFile)
	}
	sync := c.interval("sync interval", a.Sync, DefaultSync)
	if err := c.err(); err != nil {
		return nil, fmt.Errorf("writing agent.conf: %w", err)
	}
	file := agentconf.Agent{TrustDomain: a.TrustDomain.Name(), Host: host, Port: port, DataDir: a.DataDir, Socket: a.Socket,
		TrustBundle: a.TrustBundle, Sync: sync, Attestor: agentconf.JoinToken{File: a.JoinTokenFile, Keys: a.DataDir}}
	return append([]byte("# A stock SPIRE agent on the owner's side, which gives rootvouch-kms its identity.\n\n"), file.HCL()...), nil
}

func render(text string, data any) []byte {
	t := template.Must(template.New("conf").Funcs(template.FuncMap{
		"quote": strconv.Quote, // for text without escapes: see checker.text
		"list": func(all []string) string {
			quoted := make([]string, len(all))
			for i, s := range all {
				quoted[i] = strconv.Quote(s)
			}
			return "[" + strings.Join(quoted, ", ") + "]"
		},
	}).Parse(text))
	var out bytes.Buffer
	if err := t.Execute(&out, data); err != nil {
		panic("conf: internal error: " + err.Error())
	}
	return out.Bytes()
}

// checker collects the errors in settings.
type checker struct{ errs []error }

func newChecker() *checker { return &checker{} }

func (c *checker) err() error { return errors.Join(c.errs...) }

func (c *checker) fail(format string, args ...any) {
	c.errs = append(c.errs, fmt.Errorf(format, args...))
}

func (c *checker) domain(td spiffeid.TrustDomain) {
	if td.IsZero() {
		c.fail("trust domain is missing")
	}
}

// text refuses characters that could end an HCL string, or have a meaning inside one.
func (c *checker) text(what, s string) {
	for _, r := range s {
		if r < ' ' || r > '~' || strings.ContainsRune("\"\\$%", r) {
			c.fail("%s is %q, want printable ASCII without \", \\, $ and %%", what, s)
			return
		}
	}
}

func (c *checker) paths(what string, paths ...string) {
	if len(paths) == 0 {
		c.fail("%s: none given", what)
	}
	for _, p := range paths {
		if !filepath.IsAbs(p) {
			c.fail("%s is %q, want an absolute path", what, p)
			continue
		}
		c.text(what, p)
	}
}

func (c *checker) address(what, s string) (host string, port uint16) {
	host, text, err := net.SplitHostPort(s)
	if err != nil {
		c.fail("%s: %v", what, err)
		return "", 0
	}
	c.text(what, host)
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 {
		c.fail("%s has port %q, want 1 to 65535", what, text)
	}
	return host, uint16(n)
}

func (c *checker) interval(what string, d, fallback time.Duration) time.Duration {
	switch {
	case d == 0:
		return fallback
	case d < 10*time.Millisecond || d > time.Hour:
		c.fail("%s is %v, want 10ms to 1h", what, d)
	}
	return d
}
