package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/rootvouch/rootvouch/internal/command"
	"github.com/rootvouch/rootvouch/internal/strictjson"
	"github.com/rootvouch/rootvouch/kms/admin"
	"github.com/rootvouch/rootvouch/kms/audit"
	"github.com/rootvouch/rootvouch/kms/kek"
	"github.com/rootvouch/rootvouch/kms/kv/etcdkv"
	"github.com/rootvouch/rootvouch/kms/ledger"
	"github.com/rootvouch/rootvouch/kms/witness"
)

// rawConfig is kms.json. Paths are operating system paths.
type rawConfig struct {
	Version int `json:"version"`
	// Listen is the "host:port" for callers.
	Listen string `json:"listen"`
	// HealthListen is the "host:port" of /live, /ready and /metrics; absent: none.
	HealthListen string `json:"health_listen,omitempty"`
	// WorkloadAPI is the address of the SPIRE agent's Workload API, unix:///path.
	WorkloadAPI string `json:"workload_api"`
	// SPIFFEID is the server's own. Callers must be of the same trust domain.
	SPIFFEID string `json:"spiffe_id"`
	// AdminSocket is the path of the unix socket for `rootvouch keys`.
	AdminSocket string `json:"admin_socket"`
	// AdminRoles gives roles to users besides root and the server's own user.
	AdminRoles admin.RolesByName `json:"admin_roles,omitzero"`
	// Retention is the least time that replaced and deleted records are kept, such as "720h";
	// absent: ledger.DefaultRetention.
	Retention string `json:"retention,omitempty"`
	// Store is the file that init makes. Instead, Etcd may name the cluster that keeps the
	// store of several servers. Replica is then this server's own name among them.
	Store   string         `json:"store,omitempty"`
	Etcd    *etcdkv.Source `json:"etcd,omitempty"`
	Replica string         `json:"replica,omitempty"`
	// LogDir is the directory that init makes.
	LogDir string `json:"log_dir"`
	// CollateralDir has certificates and CRLs (*.der, *.pem, *.crl).
	CollateralDir string `json:"collateral_dir"`
	// EvidenceDir is a directory for evidence that lacks its certificate; absent: such evidence
	// is not kept.
	EvidenceDir string `json:"evidence_dir,omitempty"`
	// KEK says where the key-encryption key is that seals the keys. OldKEKs are key-encryption
	// keys that sealed keys before.
	KEK     kek.Source   `json:"kek"`
	OldKEKs []kek.Source `json:"old_keks,omitempty"`
	// Witnesses cosign the log; absent: none.
	Witnesses []witness.Source `json:"witnesses,omitempty"`
	// BreakGlass are the age recipients to which keys may be exported; absent: none.
	BreakGlass []string `json:"break_glass,omitempty"`
}

// config is a rawConfig that was checked.
type config struct {
	rawConfig
	id        spiffeid.ID
	roles     admin.Roles
	retention time.Duration
	export    admin.Recipients
	witnesses *witness.Witnesses
}

// origin is the log's name: the server's SPIFFE ID without its scheme.
func (c config) origin() string { return strings.TrimPrefix(c.id.String(), "spiffe://") }

func loadConfig(path string) (config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return config{}, fmt.Errorf("reading configuration: %w", err)
	}
	c, err := decodeConfig(data)
	if err != nil {
		return config{}, fmt.Errorf("reading configuration %s: %w", path, err)
	}
	return c, nil
}

func decodeConfig(data []byte) (config, error) {
	var c config
	if err := strictjson.Unmarshal(data, &c.rawConfig); err != nil {
		return config{}, err
	}
	var errs []error
	if c.Version != 1 {
		errs = append(errs, fmt.Errorf("version is %d, want 1", c.Version))
	}
	if err := checkAddress(c.Listen); err != nil {
		errs = append(errs, fmt.Errorf("listen: %w", err))
	}
	if c.HealthListen != "" {
		if err := checkAddress(c.HealthListen); err != nil {
			errs = append(errs, fmt.Errorf("health_listen: %w", err))
		}
	}
	if path, ok := strings.CutPrefix(c.WorkloadAPI, "unix://"); !ok || !strings.HasPrefix(path, "/") {
		errs = append(errs, fmt.Errorf("workload_api is %q, want unix:///path", c.WorkloadAPI))
	}
	var err error
	if c.id, err = spiffeid.FromString(c.SPIFFEID); err != nil {
		errs = append(errs, fmt.Errorf("spiffe_id: %w", err))
	} else if c.id.Path() == "" {
		errs = append(errs, fmt.Errorf("spiffe_id is %q, want a path after the trust domain", c.SPIFFEID))
	}
	if c.roles, err = c.AdminRoles.Resolve(); err != nil {
		errs = append(errs, fmt.Errorf("admin_roles: %w", err))
	}
	c.retention = ledger.DefaultRetention
	if c.Retention != "" {
		if c.retention, err = time.ParseDuration(c.Retention); err != nil || c.retention <= 0 {
			errs = append(errs, fmt.Errorf("retention is %q, want a time such as \"720h\"", c.Retention))
		}
	}
	for _, f := range []struct{ name, path string }{
		{"admin_socket", c.AdminSocket}, {"log_dir", c.LogDir}, {"collateral_dir", c.CollateralDir},
	} {
		if f.path == "" {
			errs = append(errs, fmt.Errorf("%s is empty", f.name))
		}
	}
	if err := c.checkEngine(); err != nil {
		errs = append(errs, err)
	}
	if err := c.checkKEKs(); err != nil {
		errs = append(errs, err)
	}
	if c.witnesses, err = witness.Open(c.Witnesses); err != nil {
		errs = append(errs, fmt.Errorf("witnesses: %w", err))
	}
	if c.export, err = admin.ParseRecipients(c.BreakGlass); err != nil {
		errs = append(errs, fmt.Errorf("break_glass: %w", err))
	}
	return c, errors.Join(errs...)
}

// checkEngine returns an error unless there is exactly one store, and a shared store has a
// replica's name.
func (c config) checkEngine() error {
	switch {
	case c.Store == "" && c.Etcd == nil:
		return errors.New("store and etcd are absent, want one of them")
	case c.Store != "" && c.Etcd != nil:
		return errors.New("store and etcd are both set, want one of them")
	case c.Etcd == nil && c.Replica != "":
		return errors.New("replica goes only with etcd")
	case c.Etcd == nil:
		return nil
	}
	var errs []error
	if err := c.Etcd.Check(); err != nil {
		errs = append(errs, fmt.Errorf("etcd: %w", err))
	}
	if err := audit.CheckLane(c.Replica); err != nil {
		errs = append(errs, fmt.Errorf("replica: %w", err))
	}
	return errors.Join(errs...)
}

// where names the place of the store in words.
func (c config) where() string {
	if c.Etcd != nil {
		return c.Etcd.Prefix + " of etcd " + strings.Join(c.Etcd.Endpoints, ",")
	}
	return c.Store
}

// lane returns the name of this server's lane of the log.
func (c config) lane() string {
	if c.Replica != "" {
		return c.Replica
	}
	return "main"
}

// checkKEKs returns an error unless each key-encryption key has a source, and a name of its
// own.
func (c rawConfig) checkKEKs() error {
	if err := c.KEK.Check(); err != nil {
		return fmt.Errorf("kek: %w", err)
	}
	names := map[string]bool{c.KEK.Title(): true}
	for _, k := range c.OldKEKs {
		if err := k.Check(); err != nil {
			return fmt.Errorf("old_keks: %w", err)
		}
		if names[k.Title()] {
			return fmt.Errorf("old_keks: got the name %q twice", k.Title())
		}
		names[k.Title()] = true
	}
	return nil
}

// keks are the open key-encryption keys of a configuration, until Close.
type keks struct {
	*kek.Ring
	closers []io.Closer
}

// loadKEKs makes all key-encryption keys ready.
func (c config) loadKEKs(ctx context.Context) (*keks, error) {
	k := &keks{}
	for _, source := range append([]kek.Source{c.KEK}, c.OldKEKs...) {
		loaded, err := source.Load(ctx, credentials())
		if err != nil {
			k.Close()
			return nil, err
		}
		k.closers = append(k.closers, loaded.Closer)
		if k.Ring == nil {
			k.Ring = kek.NewRing(source.Title(), loaded.Sealer)
			continue
		}
		if err := k.Ring.Add(source.Title(), loaded.Sealer); err != nil {
			k.Close()
			return nil, err
		}
	}
	return k, nil
}

// Close ends the programs that keep keys.
func (k *keks) Close() {
	for _, c := range k.closers {
		c.Close()
	}
}

// checkAddress returns an error unless address is "host:port".
func checkAddress(address string) error {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("port is %q, want a number up to 65535", port)
	}
	return nil
}

// configFlag gives cmd the flag --config.
func configFlag(cmd *cobra.Command) *string {
	path := cmd.Flags().String("config", "", "configuration, JSON (docs/kms.md)")
	command.Require(cmd, "config")
	return path
}

func credentials() string { return os.Getenv("CREDENTIALS_DIRECTORY") }
