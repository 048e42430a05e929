// Package etcdtest runs stock etcd members on this machine, and makes them fail as
// machines do.
package etcdtest

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"github.com/rootvouch/rootvouch/internal/needs"
	"github.com/rootvouch/rootvouch/kms/kv/etcdkv"
)

// startLimit bounds how long a cluster may take to answer.
const startLimit = 60 * time.Second

// Cluster is a cluster on loopback.
type Cluster struct {
	t       testing.TB
	dir     string
	files   files
	options []string
	network *network // nil: all members are on loopback
	Members []*Member
}

// Member is one etcd process.
type Member struct {
	Name   string
	Client string // URL
	at     int    // its place
	peer   string
	data   string
	cmd    *exec.Cmd
	output *bytes.Buffer
}

// Start starts a cluster of members, and waits until they answer. The options go to
// each member. If there is no etcd, Start skips the test.
func Start(t testing.TB, members int, options ...string) *Cluster {
	t.Helper()
	needs.Boot(t)
	return start(t, nil, members, options)
}

// StartWired starts three members with a cable each, in a network that InOwnNetwork made.
func StartWired(t testing.TB) *Cluster {
	t.Helper()
	return start(t, newNetwork(t), members, nil)
}

func start(t testing.TB, network *network, members int, options []string) *Cluster {
	t.Helper()
	dir := t.TempDir()
	c := &Cluster{t: t, dir: dir, files: certify(t, dir), network: network, options: options}
	for i := range members {
		c.Members = append(c.Members, c.member(fmt.Sprintf("m%d", i+1), i))
	}
	for _, m := range c.Members {
		c.run(m, c.initial(c.Members), "new")
	}
	t.Cleanup(func() {
		for _, m := range c.Members {
			c.Kill(m)
		}
	})
	c.WaitReady()
	return c
}

func (c *Cluster) member(name string, at int) *Member {
	m := &Member{Name: name, at: at, data: filepath.Join(c.dir, name)}
	if c.network != nil {
		m.Client, m.peer = fmt.Sprintf("https://%s:2379", memberIP(at)), fmt.Sprintf("http://%s:2380", memberIP(at))
	} else {
		m.Client, m.peer = "https://"+c.free(), "http://"+c.free()
	}
	return m
}

// free returns a free address.
func (c *Cluster) free() string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		c.t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func (c *Cluster) initial(members []*Member) string {
	var all []string
	for _, m := range members {
		all = append(all, m.Name+"="+m.peer)
	}
	return strings.Join(all, ",")
}

func (c *Cluster) run(m *Member, initial, state string) {
	c.t.Helper()
	m.output = new(bytes.Buffer)
	m.cmd = exec.Command(needs.Part(c.t, "etcd/3.7.3/etcd"), append([]string{
		"--name", m.Name, "--data-dir", m.data, "--log-level", "warn",
		"--client-cert-auth", "--trusted-ca-file", c.files.ca, "--cert-file", c.files.cert, "--key-file", c.files.key,
		"--listen-client-urls", m.Client, "--advertise-client-urls", m.Client,
		"--listen-peer-urls", m.peer, "--initial-advertise-peer-urls", m.peer,
		"--initial-cluster", initial, "--initial-cluster-state", state}, c.options...)...)
	m.cmd.Stdout, m.cmd.Stderr = m.output, m.output
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	begin := m.cmd.Start
	if c.network != nil {
		begin = func() error { return c.network.start(m.cmd, m.at) }
	}
	if err := begin(); err != nil {
		c.t.Fatal(err)
	}
}

// WaitReady waits until a majority answers.
func (c *Cluster) WaitReady() {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	for {
		s, err := etcdkv.Open(ctx, c.Source("wait/"))
		if err == nil {
			s.Close()
			return
		}
		if ctx.Err() != nil {
			for _, m := range c.Members {
				c.t.Logf("%s: %s", m.Name, m.output)
			}
			c.t.Fatalf("etcd does not answer: %v", err)
		}
	}
}

// Endpoints returns the members' URLs.
func (c *Cluster) Endpoints() []string {
	var all []string
	for _, m := range c.Members {
		all = append(all, m.Client)
	}
	return all
}

// Source returns the source of the book with a prefix.
func (c *Cluster) Source(prefix string) etcdkv.Source {
	return etcdkv.Source{Endpoints: c.Endpoints(), Prefix: prefix, CAFile: c.files.ca, CertFile: c.files.cert, KeyFile: c.files.key}
}

// Open returns a new client of the book with a prefix.
func (c *Cluster) Open(prefix string) *etcdkv.Store {
	c.t.Helper()
	s, err := etcdkv.Open(context.Background(), c.Source(prefix))
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { s.Close() })
	return s
}

// Kill ends a member as a power cut does.
func (c *Cluster) Kill(m *Member) {
	if m.cmd == nil {
		return
	}
	m.cmd.Process.Kill()
	m.cmd.Wait()
	m.cmd = nil
}

// Restart starts a killed member again, with its old data.
func (c *Cluster) Restart(m *Member) {
	c.t.Helper()
	c.run(m, c.initial(c.Members), "existing")
}

// Pause stops a member: its connections stay open, and it answers nothing.
func (c *Cluster) Pause(m *Member) { m.cmd.Process.Signal(syscall.SIGSTOP) }

// Resume lets a paused member go on.
func (c *Cluster) Resume(m *Member) { m.cmd.Process.Signal(syscall.SIGCONT) }

// Client returns etcd's own client of all members.
func (c *Cluster) Client() *clientv3.Client {
	c.t.Helper()
	client, err := clientv3.New(clientv3.Config{Endpoints: c.Endpoints(), TLS: c.files.config(c.t), Logger: zap.NewNop()})
	if err != nil {
		c.t.Fatal(err)
	}
	return client
}

// Leader returns the cluster's leader.
func (c *Cluster) Leader() *Member {
	c.t.Helper()
	client := c.Client()
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	for ctx.Err() == nil {
		for _, m := range c.Members {
			if m.cmd == nil {
				continue
			}
			try, cancel := context.WithTimeout(ctx, time.Second)
			status, err := client.Status(try, m.Client)
			cancel()
			if err == nil && status.Leader != 0 && status.Leader == status.Header.MemberId {
				return m
			}
		}
	}
	c.t.Fatal("etcd has no leader")
	return nil
}

// Replace removes a member with its data, and adds a new member.
func (c *Cluster) Replace(m *Member) {
	c.t.Helper()
	client := c.Client()
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), startLimit)
	defer cancel()
	c.Kill(m)
	fresh := c.member(m.Name+"x", m.at)
	must := func(what string, do func(context.Context) error) {
		c.t.Helper()
		for {
			try, cancel := context.WithTimeout(ctx, 5*time.Second)
			err := do(try)
			cancel()
			if err == nil {
				return
			}
			if ctx.Err() != nil {
				c.t.Fatalf("%s: %v", what, err)
			}
		}
	}
	var id uint64
	must("listing members", func(ctx context.Context) error {
		list, err := client.MemberList(ctx)
		if err != nil {
			return err
		}
		for _, one := range list.Members {
			if one.Name == m.Name {
				id = one.ID
			}
		}
		return nil
	})
	must("removing a member", func(ctx context.Context) error {
		_, err := client.MemberRemove(ctx, id)
		if err != nil && strings.Contains(err.Error(), "member not found") {
			return nil // an earlier try did it
		}
		return err
	})
	must("adding a member", func(ctx context.Context) error {
		_, err := client.MemberAdd(ctx, []string{fresh.peer})
		if err != nil && strings.Contains(err.Error(), "Peer URLs already exists") {
			return nil
		}
		return err
	})
	for i := range c.Members {
		if c.Members[i] == m {
			c.Members[i] = fresh
		}
	}
	c.run(fresh, c.initial(c.Members), "existing")
	if err := os.RemoveAll(m.data); err != nil {
		c.t.Error(err)
	}
}
