// Package agent gets the disk's key with the help of the stock SPIRE agent.
//
// The agent and fetchkey are programs of their own, so PID 1 links no TLS and no
// gRPC. PID 1 writes their files, starts them, and reads the key from a pipe.
package agent

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
	"github.com/rootvouch/rootvouch/boot/process"
	"github.com/rootvouch/rootvouch/boot/wait"
	"github.com/rootvouch/rootvouch/spire/agentconf"
)

// Files of the SPIRE agent's data directory that PID 1 writes.
const (
	trustRootPath = bootconfig.AgentDataDir + "/trust_root.pem"
	logPath       = bootconfig.AgentDataDir + "/agent.log"
)

// Pauses between two starts of the agent: twice as long each time.
const (
	firstRestart = 500 * time.Millisecond
	maxRestart   = 8 * time.Second
)

// maxLog is how much of the agent's log is read for its last error, in
// bytes.
const maxLog = 64 << 10

// sync is the agent's first pause before it asks the server again for a missing
// entry. The agent lengthens the pause by half each time, up to its stock 5 s.
const sync = 100 * time.Millisecond

// agentConfig returns the agent's configuration file for one address of the
// server. Every string in it has passed bootconfig's narrow alphabets. The agent
// trusts the server by the measured root alone.
func agentConfig(c bootconfig.Config, server string) ([]byte, error) {
	host, port, err := bootconfig.SplitAddress(server)
	if err != nil {
		return nil, fmt.Errorf("splitting address of the SPIRE server: %w", err)
	}
	return agentconf.Agent{
		TrustDomain: c.TrustDomain, Host: host, Port: port, DataDir: bootconfig.AgentDataDir, Socket: bootconfig.AgentSocketPath,
		TrustBundle: trustRootPath, Sync: sync,
		Attestor: agentconf.SNP{Plugin: bootconfig.AgentPluginPath, Device: c.ReportDevice},
	}.HCL(), nil
}

// Agent is the SPIRE agent while it runs.
type Agent struct {
	process *process.Process
	log     *os.File // standard output and error
	config  bootconfig.Config
	server  string // address that this start uses
	table   *process.Table
	starts  int
}

func (a *Agent) String() string {
	s := "attested to " + a.server
	if a.starts > 1 {
		s += fmt.Sprintf(" at start %d", a.starts)
	}
	return s
}

// Start writes the agent's files and starts the agent again until it serves the
// Workload API. The agent ends if it cannot reach its server or if the server
// refuses. Start tries again in the first case only.
func Start(ctx context.Context, table *process.Table, c bootconfig.Config) (*Agent, error) {
	addresses := c.SPIRE.Addresses
	var last error
	for starts, pause := 1, firstRestart; ; starts++ {
		a := &Agent{config: c, server: addresses[(starts-1)%len(addresses)], table: table, starts: starts}
		if err := a.writeFiles(); err != nil {
			return nil, err
		}
		err := a.launch(ctx)
		if err == nil {
			return a, nil
		}
		if ctx.Err() == nil || last == nil {
			last = err
		}
		if isFinal(err) {
			return nil, fmt.Errorf("running SPIRE agent: %w", err)
		}
		if starts%len(addresses) != 0 && ctx.Err() == nil {
			continue // the next address at once
		}
		if wait.For(ctx, pause) != nil {
			return nil, fmt.Errorf("running SPIRE agent: gave up after %d starts: %w", starts, last)
		}
		pause = min(2*pause, maxRestart)
	}
}

func (a *Agent) writeFiles() error {
	config, err := agentConfig(a.config, a.server)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(bootconfig.AgentDataDir, 0o700); err != nil {
		return fmt.Errorf("making the SPIRE agent's directory: %w", err)
	}
	for path, content := range map[string][]byte{
		bootconfig.AgentConfigPath: config,
		trustRootPath:              []byte(a.config.SPIRE.TrustRoot),
	} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			return fmt.Errorf("writing %s: %w", filepath.Base(path), err)
		}
	}
	return nil
}

// launch starts the agent once and waits until its socket answers.
func (a *Agent) launch(ctx context.Context) error {
	log, err := os.OpenFile(logPath, os.O_RDWR|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("opening the SPIRE agent's log: %w", err)
	}
	a.log = log
	a.process, err = a.table.Start(process.Command{
		Path: bootconfig.AgentPath,
		Argv: []string{bootconfig.AgentPath, "run", "-config", bootconfig.AgentConfigPath},
		Out:  log,
	})
	if err != nil {
		log.Close()
		return err
	}
	for {
		if a.answers() {
			return nil
		}
		select {
		case status := <-a.process.End:
			defer log.Close()
			return a.failure("agent ended with " + process.Describe(status))
		case <-time.After(wait.Poll):
		case <-ctx.Done():
			defer log.Close()
			a.process.Kill()
			return a.failure("agent did not serve the Workload API in time")
		}
	}
}

// answers reports whether the agent takes connections for the Workload API. The
// agent does so once it has its own SVID.
func (a *Agent) answers() bool {
	conn, err := net.DialTimeout("unix", bootconfig.AgentSocketPath, time.Second)
	if err != nil {
		return false
	}
	_ = conn.Close() // nothing was sent
	return true
}

// failure returns an error that says what happened, with the last error that the
// agent logged.
func (a *Agent) failure(what string) error {
	if line := a.lastError(); line != "" {
		return fmt.Errorf("%s: %s", what, line)
	}
	return errors.New(what)
}

// lastError returns the last error of the agent's log, or "".
func (a *Agent) lastError() string {
	size, err := a.log.Seek(0, io.SeekEnd)
	if err != nil {
		return ""
	}
	data := make([]byte, min(size, maxLog))
	if _, err := a.log.ReadAt(data, size-int64(len(data))); err != nil && !errors.Is(err, io.EOF) {
		return ""
	}
	return lastLogError(data)
}

// lastLogError reads logrus's JSON lines, mixed with plain lines from before
// logging starts. It returns the last error, or the last plain line if there is no
// error.
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

// isFinal reports whether the server has judged the evidence. If so, another try
// with the same evidence cannot help.
func isFinal(err error) bool {
	return strings.Contains(err.Error(), "code = PermissionDenied")
}
