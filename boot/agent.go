package boot

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/rootvouch/rootvouch/boot/bootconfig"
)

// Files of the SPIRE agent's data directory that PID 1 writes.
const (
	trustRootPath = bootconfig.AgentDataDir + "/trust_root.pem"
	agentLogPath  = bootconfig.AgentDataDir + "/agent.log"
)

// Pauses between two starts of the agent: twice as long each time.
const (
	firstRestart = 500 * time.Millisecond
	maxRestart   = 8 * time.Second
)

// maxAgentLog is how much of the agent's log is read for its last error, in
// bytes.
const maxAgentLog = 64 << 10

// agentConfig returns the configuration of the stock SPIRE agent (1.13) in HCL, for
// one address of the server.
// Every string that goes into it has passed bootconfig's narrow alphabets.
//
// retry_bootstrap is off because PID 1 restarts the agent itself, sooner than
// the agent would try again. sync_interval is how soon the agent asks the server
// again when an entry is missing; the agent raises it by half each time, up to
// its stock 5 s. insecure_bootstrap appears nowhere: the only way to trust a
// server is the measured root.
func agentConfig(c bootconfig.Config, server string) (string, error) {
	host, port, err := bootconfig.SplitAddress(server)
	if err != nil {
		return "", fmt.Errorf("splitting address of the SPIRE server: %w", err)
	}
	return fmt.Sprintf(`agent {
  data_dir = %q
  log_format = "json"
  log_level = "INFO"
  server_address = %q
  server_port = %d
  socket_path = %q
  trust_bundle_path = %q
  trust_domain = %q
  retry_bootstrap = false
  experimental {
    sync_interval = "100ms"
  }
}

plugins {
  NodeAttestor "amd_sev_snp" {
    plugin_cmd = %q
    plugin_data {
      device = %q
    }
  }
  KeyManager "memory" {
    plugin_data {}
  }
  WorkloadAttestor "unix" {
    plugin_data {
      discover_workload_path = true
    }
  }
}
`, bootconfig.AgentDataDir, host, port, bootconfig.AgentSocketPath, trustRootPath, c.TrustDomain,
		bootconfig.AgentPluginPath, c.ReportDevice), nil
}

// agent is the SPIRE agent while it runs.
type agent struct {
	child *child
	log   *os.File // its standard output and error
}

// startAgent writes the agent's files and starts it until it serves the
// Workload API. The agent ends when its server cannot be reached or refuses; the
// former may pass, the latter does not.
func (m *machine) startAgent(ctx context.Context) (string, error) {
	addresses := m.config.SPIRE.Addresses
	var last error
	for starts, wait := 1, firstRestart; ; starts++ {
		server := addresses[(starts-1)%len(addresses)]
		if err := writeAgentFiles(m.config, server); err != nil {
			return "", err
		}
		a, err := launchAgent(ctx, m.children)
		if err == nil {
			m.agent = a
			detail := "attested to " + server
			if starts > 1 {
				detail += fmt.Sprintf(" at start %d", starts)
			}
			return detail, nil
		}
		if ctx.Err() == nil || last == nil {
			last = err
		}
		if isFinal(err) {
			return "", fmt.Errorf("running SPIRE agent: %w", err)
		}
		if starts%len(addresses) != 0 && ctx.Err() == nil {
			continue // the next address at once
		}
		if sleep(ctx, wait) != nil {
			return "", fmt.Errorf("running SPIRE agent: gave up after %d starts: %w", starts, last)
		}
		wait = min(2*wait, maxRestart)
	}
}

func writeAgentFiles(c bootconfig.Config, server string) error {
	config, err := agentConfig(c, server)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(bootconfig.AgentDataDir, 0o700); err != nil {
		return fmt.Errorf("making the SPIRE agent's directory: %w", err)
	}
	for path, content := range map[string]string{
		bootconfig.AgentConfigPath: config,
		trustRootPath:              c.SPIRE.TrustRoot,
	} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			return fmt.Errorf("writing %s: %w", filepath.Base(path), err)
		}
	}
	return nil
}

// launchAgent starts the agent once and waits until its socket answers.
func launchAgent(ctx context.Context, children *children) (*agent, error) {
	log, err := os.OpenFile(agentLogPath, os.O_RDWR|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the SPIRE agent's log: %w", err)
	}
	a := &agent{log: log}
	a.child, err = children.start(command{
		path: bootconfig.AgentPath,
		argv: []string{bootconfig.AgentPath, "run", "-config", bootconfig.AgentConfigPath},
		out:  log,
	})
	if err != nil {
		log.Close()
		return nil, err
	}
	for {
		if a.answers() {
			return a, nil
		}
		select {
		case status := <-a.child.end:
			defer log.Close()
			return nil, a.failure("agent ended with " + describe(status))
		case <-time.After(poll):
		case <-ctx.Done():
			defer log.Close()
			a.child.kill()
			return nil, a.failure("agent did not serve the Workload API in time")
		}
	}
}

// answers reports whether the agent takes connections for the Workload API,
// which it does once it has its own SVID.
func (a *agent) answers() bool {
	conn, err := net.DialTimeout("unix", bootconfig.AgentSocketPath, time.Second)
	if err != nil {
		return false
	}
	_ = conn.Close() // nothing was sent
	return true
}

// failure joins what happened with the last error that the agent logged.
func (a *agent) failure(what string) error {
	if line := a.lastError(); line != "" {
		return fmt.Errorf("%s: %s", what, line)
	}
	return errors.New(what)
}

// lastError returns the last error of the agent's log, or "".
func (a *agent) lastError() string {
	size, err := a.log.Seek(0, io.SeekEnd)
	if err != nil {
		return ""
	}
	data := make([]byte, min(size, maxAgentLog))
	if _, err := a.log.ReadAt(data, size-int64(len(data))); err != nil && !errors.Is(err, io.EOF) {
		return ""
	}
	return lastLogError(data)
}

// lastLogError reads a log of logrus in its JSON form, mixed with plain lines of
// the time before logging starts. It prefers the last error; without one, the
// last plain line is the best there is.
func lastLogError(data []byte) string {
	found, plain := "", ""
	for line := range bytes.Lines(data) {
		line = bytes.TrimSpace(line)
		var entry struct{ Level, Msg, Error string }
		if json.Unmarshal(line, &entry) != nil {
			if len(line) > 0 {
				plain = string(line)
			}
			continue
		}
		switch entry.Level {
		case "error", "fatal", "panic":
			found = entry.Msg
			if entry.Error != "" {
				found += ": " + entry.Error
			}
		}
	}
	if found != "" {
		return found
	}
	return plain
}

// isFinal reports whether the server has judged the evidence: asking again with
// the same evidence cannot help.
func isFinal(err error) bool {
	return strings.Contains(err.Error(), "code = PermissionDenied")
}
