// Package agentconf writes the configuration of a stock SPIRE agent (1.13).
//
// Every agent trusts its server by a root in a file: no configuration has insecure_bootstrap or
// the address of a bundle. Callers pass text that needs no escapes inside an HCL string.
package agentconf

import (
	"fmt"
	"strings"
	"time"
)

// Agent is the configuration of one agent. All paths are absolute.
type Agent struct {
	TrustDomain string
	Host        string // of the SPIRE server
	Port        uint16
	DataDir     string
	Socket      string        // of the Workload API
	TrustBundle string        // PEM: the only root that the agent trusts for its server
	Sync        time.Duration // the longest delay until a new or changed entry reaches the agent; SPIRE's default is 5 s

	Attestor Attestor
}

// Attestor is the method by which an agent proves its node to the server: SNP or JoinToken.
type Attestor interface {
	settings() string // settings for the block "agent"
	plugins() string
}

// SNP is the attestor of a VM. The agent's key stays in memory, so each
// launch attests for itself.
type SNP struct {
	Plugin     string // path of snp-agent-plugin
	Device     string // the report device, as in the plugin's configuration
	DevicePath string // empty: the plugin's default
}

// The agent ends if it cannot attest. Its parent process starts it again, sooner than the agent
// would retry.
func (SNP) settings() string { return "  retry_bootstrap   = false\n" }

func (s SNP) plugins() string {
	path := ""
	if s.DevicePath != "" {
		path = fmt.Sprintf("\n      device_path = %q", s.DevicePath)
	}
	return fmt.Sprintf(`  NodeAttestor "amd_sev_snp" {
    plugin_cmd = %q
    plugin_data {
      device = %q%s
    }
  }

  KeyManager "memory" {
    plugin_data {}
  }
`, s.Plugin, s.Device, path)
}

// JoinToken is the attestor of an agent on the owner's side.
type JoinToken struct {
	File string // file with the token; empty: the agent has attested before
	Keys string // directory for the agent's key
}

func (j JoinToken) settings() string {
	if j.File == "" {
		return ""
	}
	return fmt.Sprintf("  join_token_file   = %q\n", j.File)
}

func (j JoinToken) plugins() string {
	return fmt.Sprintf(`  NodeAttestor "join_token" {
    plugin_data {}
  }

  # The server takes a join token once, so the agent's key must survive a restart.
  KeyManager "disk" {
    plugin_data {
      directory = %q
    }
  }
`, j.Keys)
}

// HCL returns the agent's configuration file.
func (a Agent) HCL() []byte {
	var out strings.Builder
	fmt.Fprintf(&out, `agent {
  trust_domain      = %q
  server_address    = %q
  server_port       = "%d"
  data_dir          = %q
  socket_path       = %q
  trust_bundle_path = %q
`, a.TrustDomain, a.Host, a.Port, a.DataDir, a.Socket, a.TrustBundle)
	out.WriteString(a.Attestor.settings())
	fmt.Fprintf(&out, `
  experimental {
    # How soon a new or changed entry reaches this agent: by default 5 s.
    sync_interval = "%v"
  }
}

plugins {
`, a.Sync)
	out.WriteString(a.Attestor.plugins())
	out.WriteString(`
  # Without discovery there are no selectors for a workload's path and SHA-256.
  WorkloadAttestor "unix" {
    plugin_data {
      discover_workload_path = true
    }
  }
}
`)
	return []byte(out.String())
}
