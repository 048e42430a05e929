// Package demo runs the owner's side of a trust domain on this machine: stock
// SPIRE, a key server, and the commands that build, register and launch a VM.
//
// Each step is a command that a reader of docs/walk.md can type, and the demo shows
// it as such. The demo has no other means.
package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/rootvouch/rootvouch/internal/shell"
)

// Names inside the demo's trust domain.
const (
	TrustDomain = "demo.example"
	KMSID       = "spiffe://" + TrustDomain + "/kms"
	OwnerAgent  = "spiffe://" + TrustDomain + "/node/owner" // the node alias of the agent on the owner's side

	// hostFromGuest is the address under which a guest on QEMU's user-mode network
	// reaches this machine's loopback.
	hostFromGuest = "10.0.2.2"

	startLimit = 30 * time.Second // for a server to be ready
)

// Domain is the owner's side: a trust root, a SPIRE server, an agent, a KMS.
// Its state is in one directory, which its user removes.
type Domain struct {
	Parts Parts
	Dir   string // state: keys, databases, sockets
	Logs  string // the servers' logs
	// Show is called with each command before it runs, written as a line of shell,
	// and with the parts of its output that a user should see. May be nil.
	Show func(line string)

	spireAddress string // host:port on loopback
	kmsAddress   string
	spire, kms   *process
	agent        *process
	stopper      stopper
}

// NewDomain prepares a domain in an existing directory. Nothing runs yet.
func NewDomain(parts Parts, dir, logs string) (*Domain, error) {
	d := &Domain{Parts: parts, Dir: dir, Logs: logs}
	if err := os.MkdirAll(d.RefvalDir(), 0o755); err != nil {
		return nil, err
	}
	for _, address := range []*string{&d.spireAddress, &d.kmsAddress} {
		port, err := freePort()
		if err != nil {
			return nil, err
		}
		*address = net.JoinHostPort("127.0.0.1", port)
	}
	if err := os.MkdirAll(logs, 0o755); err != nil {
		return nil, err
	}
	return d, nil
}

// freePort finds a free TCP port of the loopback interface. The port must be known
// before the server starts, because it is measured.
func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("looking for a free port: %w", err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	return port, err
}

// Paths of the domain's state.
func (d *Domain) path(name string) string { return filepath.Join(d.Dir, name) }

// TrustRoot returns the path of the certificate in boot.json.
func (d *Domain) TrustRoot() string { return d.path("trust/root.crt") }

// AMDSP returns the directory of the software AMD-SP, with its private keys.
func (d *Domain) AMDSP() string { return d.path("asp") }

// Collateral returns the directory with the software AMD-SP's certificates and CRL.
func (d *Domain) Collateral() string { return filepath.Join(d.AMDSP(), "collateral") }

// RefvalDir returns the directory in which the SPIRE server looks for reference
// values.
func (d *Domain) RefvalDir() string { return d.path("refvals") }

// Refval returns the file in RefvalDir that TrustValues writes.
func (d *Domain) Refval() string { return filepath.Join(d.RefvalDir(), "all.json") }

// KMSSocket returns the path of the key server's admin socket.
func (d *Domain) KMSSocket() string { return d.path("kms.sock") }

// SPIRESocket returns the path of the SPIRE server's admin socket.
func (d *Domain) SPIRESocket() string { return d.path("spire-server.sock") }

// WorkloadAPI returns the address of the Workload API of the agent on the owner's
// side.
func (d *Domain) WorkloadAPI() string { return d.path("owner-agent.sock") }

// SPIREAddress returns the address at which a guest reaches the SPIRE server.
func (d *Domain) SPIREAddress() string { return fromGuest(d.spireAddress) }

// KMSAddress returns the address at which a guest reaches the KMS.
func (d *Domain) KMSAddress() string { return fromGuest(d.kmsAddress) }

// KMSListen returns the KMS's address on this machine.
func (d *Domain) KMSListen() string { return d.kmsAddress }

func fromGuest(address string) string {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		panic("demo: internal error: " + err.Error())
	}
	return net.JoinHostPort(hostFromGuest, port)
}

// Rootvouch runs a command of the owner's tool and returns its output.
func (d *Domain) Rootvouch(ctx context.Context, args ...string) ([]byte, error) {
	return d.rootvouchTo(ctx, "", args...)
}

// rootvouchTo is Rootvouch for output that the caller writes to a file. The shown
// command redirects its output to that file.
func (d *Domain) rootvouchTo(ctx context.Context, file string, args ...string) ([]byte, error) {
	line := "$ rootvouch " + shell.Quote(args...)
	if file != "" {
		line += " >" + shell.Quote(file)
	}
	d.show(line)
	return runCommand(ctx, append([]string{d.Parts.Rootvouch}, args...)...)
}

func (d *Domain) show(line string) {
	if d.Show != nil {
		d.Show(line)
	}
}

// MakeRoots makes the long-lived root of the trust domain and the software
// AMD-SP.
func (d *Domain) MakeRoots(ctx context.Context) error {
	if _, err := d.Rootvouch(ctx, "spire", "init", "--ca-dir", d.path("trust"), "--trust-domain", TrustDomain); err != nil {
		return err
	}
	_, err := d.Rootvouch(ctx, "vm", "asp", "init", "--asp", d.AMDSP())
	return err
}

// StartSPIRE starts the stock SPIRE server with our plugin, and a stock agent
// for the owner's side.
func (d *Domain) StartSPIRE(ctx context.Context) error {
	config, err := d.rootvouchTo(ctx, d.path("spire-server.conf"), "spire", "server-config", "--trust-domain", TrustDomain, "--bind", d.spireAddress,
		"--data-dir", d.path("spire-server"), "--socket", d.SPIRESocket(), "--ca-dir", d.path("trust"),
		"--plugin", d.Parts.ServerPlugin, "--refval-dir", d.RefvalDir(), "--collateral-dir", d.Collateral())
	if err != nil {
		return err
	}
	if err := d.StartSPIREServer(ctx, config); err != nil {
		return err
	}
	return d.startOwnerAgent(ctx)
}

// StartSPIREServer starts, or starts again, the SPIRE server.
func (d *Domain) StartSPIREServer(ctx context.Context, config []byte) error {
	path := d.path("spire-server.conf")
	if config != nil {
		if err := os.MkdirAll(d.path("spire-server"), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(path, config, 0o600); err != nil {
			return err
		}
	}
	d.show("$ spire-server run -config " + path)
	server, err := startProcess("spire-server", d.Logs, d.Parts.SPIREServer, "run", "-config", path)
	if err != nil {
		return err
	}
	d.spire = server
	d.stopper.add(server.stop)
	return server.ready(ctx, startLimit, func(ctx context.Context) error {
		_, err := d.SPIREServer(ctx, "healthcheck")
		return err
	})
}

// SPIREServer runs a command of the stock spire-server against the running one.
func (d *Domain) SPIREServer(ctx context.Context, args ...string) ([]byte, error) {
	argv := append([]string{d.Parts.SPIREServer}, args...)
	return runCommand(ctx, append(argv, "-socketPath", d.SPIRESocket())...)
}

func (d *Domain) startOwnerAgent(ctx context.Context) error {
	// The token is good once. It is passed in a file, because process lists show
	// arguments.
	tokenFile := d.path("owner-agent.token")
	token, err := d.rootvouchTo(ctx, tokenFile, "spire", "join-token", "--socket", d.SPIRESocket(), "--trust-domain", TrustDomain)
	if err != nil {
		return err
	}
	if err := os.WriteFile(tokenFile, token, 0o600); err != nil {
		return err
	}
	defer os.Remove(tokenFile)
	config, err := d.rootvouchTo(ctx, d.path("owner-agent.conf"), "spire", "agent-config", "--trust-domain", TrustDomain, "--spire-address", d.spireAddress,
		"--data-dir", d.path("owner-agent"), "--workload-api-socket", d.WorkloadAPI(), "--ca-dir", d.path("trust"),
		"--join-token-file", tokenFile)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(d.path("owner-agent"), 0o700); err != nil {
		return err
	}
	path := d.path("owner-agent.conf")
	if err := os.WriteFile(path, config, 0o600); err != nil {
		return err
	}
	d.show("$ spire-agent run -config " + path)
	if d.agent, err = startProcess("owner-agent", d.Logs, d.Parts.SPIREAgent, "run", "-config", path); err != nil {
		return err
	}
	d.stopper.add(d.agent.stop)
	return d.agent.ready(ctx, startLimit, func(context.Context) error {
		conn, err := net.Dial("unix", d.WorkloadAPI())
		if err != nil {
			return err
		}
		return conn.Close()
	})
}

// StartKMS registers and starts the key server. The first time it makes an empty
// store.
func (d *Domain) StartKMS(ctx context.Context) error {
	config := d.path("kms.json")
	if _, err := os.Stat(config); err != nil {
		if err := d.initKMS(ctx, config); err != nil {
			return err
		}
	}
	d.show("$ rootvouch-kms serve --config " + config)
	var err error
	if d.kms, err = startProcess("rootvouch-kms", d.Logs, d.Parts.KMS, "serve", "--config", config); err != nil {
		return err
	}
	d.stopper.add(d.kms.stop)
	return d.kms.ready(ctx, startLimit, func(context.Context) error {
		conn, err := net.Dial("tcp", d.kmsAddress)
		if err != nil {
			return err
		}
		return conn.Close()
	})
}

func (d *Domain) initKMS(ctx context.Context, config string) error {
	text, err := json.MarshalIndent(map[string]any{
		"version": 1, "listen": d.kmsAddress, "spiffe_id": KMSID,
		"workload_api":   (&url.URL{Scheme: "unix", Path: d.WorkloadAPI()}).String(),
		"admin_socket":   d.KMSSocket(),
		"store":          d.path("kms.db"),
		"log_dir":        d.KMSLog(),
		"collateral_dir": d.Collateral(),
		"kek":            map[string]string{"file": d.path("kms.kek")},
	}, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(config, text, 0o600); err != nil {
		return err
	}
	d.show("$ rootvouch-kms init --config " + config)
	if _, err := runCommand(ctx, d.Parts.KMS, "init", "--config", config); err != nil {
		return err
	}
	_, err = d.Rootvouch(ctx, "spire", "entries", "--socket", d.SPIRESocket(), "--trust-domain", TrustDomain,
		"--kms", d.Parts.KMS)
	return err
}

// KMSLog returns the directory of the KMS's transparency log.
func (d *Domain) KMSLog() string { return d.path("kms.log") }

// StopKMS ends the key server.
func (d *Domain) StopKMS() { d.kms.stop() }

// StopSPIREServer ends the SPIRE server.
func (d *Domain) StopSPIREServer() { d.spire.stop() }

// Stop ends everything that the domain started.
func (d *Domain) Stop() { d.stopper.stop() }
