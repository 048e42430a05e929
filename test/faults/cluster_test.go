package faults

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/rootvouch/rootvouch/internal/needs"
	"github.com/rootvouch/rootvouch/test/etcdtest"
)

// TestCluster makes the members of a cluster fail as machines do, while releases
// run.
func TestCluster(t *testing.T) {
	c := etcdtest.Start(t, 3)
	w := newRig(t, c)
	l := w.load(6)
	for range rounds(1, 5) {
		for _, fault := range []struct {
			name string
			do   func(t *testing.T)
		}{
			{"the leader is killed", func(t *testing.T) {
				m := c.Leader()
				c.Kill(m)
				l.more(t, 5)
				c.Restart(m)
			}},
			{"the leader stands still", func(t *testing.T) {
				m := c.Leader()
				c.Pause(m)
				l.more(t, 5)
				c.Resume(m)
			}},
			{"a follower stands still", func(t *testing.T) {
				m := c.Leader()
				for _, other := range c.Members {
					if other != m {
						c.Pause(other)
						l.more(t, 5)
						c.Resume(other)
						return
					}
				}
			}},
			{"the majority stands still", func(t *testing.T) {
				c.Pause(c.Members[0])
				c.Pause(c.Members[1])
				time.Sleep(2 * time.Second) // long enough for transactions with an unknown outcome
				c.Resume(c.Members[0])
				c.Resume(c.Members[1])
				l.more(t, 5)
			}},
			{"all members are killed", func(t *testing.T) {
				for _, m := range c.Members {
					c.Kill(m)
				}
				for _, m := range c.Members {
					c.Restart(m)
				}
				l.more(t, 5)
			}},
			{"a member is replaced", func(t *testing.T) {
				c.Replace(c.Members[2])
				l.more(t, 5)
			}},
			{"a server's machine is lost, another takes its place", func(t *testing.T) {
				s := w.servers[2]
				s.kill()
				w.run("leave", "--config", w.servers[0].config, s.name)
				must(t, os.RemoveAll(s.logDir()))
				l.more(t, 5)
				w.run("join", "--config", s.config)
				w.cp(w.servers[0].logDir(), s.logDir())
				s.start()
				l.more(t, 5)
			}},
		} {
			t.Run(fault.name, func(t *testing.T) {
				fault.do(t)
				l.more(t, 5)
			})
		}
	}
	w.race(t, rounds(5, 50))
	w.judge(l)
}

// TestPartition cuts members off the others and off the servers, by their cables.
func TestPartition(t *testing.T) {
	needs.Boot(t)
	if !etcdtest.InOwnNetwork(t) {
		return
	}
	c := etcdtest.StartWired(t)
	w := newRig(t, c)
	l := w.load(6)
	for range rounds(1, 5) {
		leader := c.Leader()
		c.Unplug(leader)
		l.more(t, 5)
		c.Plug(leader)
		l.more(t, 5)
		for _, m := range c.Members[:2] { // no majority is left
			c.Unplug(m)
		}
		w.eventually(t, "a server that is not ready", func() error {
			if status, body := w.ready(w.servers[0]); status != http.StatusServiceUnavailable || !strings.Contains(body, "store") {
				return fmt.Errorf("/ready says %d %s", status, body)
			}
			return nil
		})
		for _, m := range c.Members[:2] {
			c.Plug(m)
		}
		l.more(t, 5)
	}
	w.judge(l)
}

// TestNoSpace fills the cluster until it takes no more data. The servers report it,
// no boot ends, and everything goes on when there is room.
func TestNoSpace(t *testing.T) {
	c := etcdtest.Start(t, 3, "--quota-backend-bytes", fmt.Sprint(24<<20))
	w := newRig(t, c)
	l := w.load(4)
	l.more(t, 5)
	client := c.Client()
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for i := 0; ; i++ {
		_, err := client.Put(ctx, fmt.Sprintf("else/%d", i), strings.Repeat("x", 1<<20))
		if errors.Is(err, rpctypes.ErrNoSpace) {
			break
		}
		must(t, err)
	}
	w.eventually(t, "a server that is not ready", func() error {
		if status, body := w.ready(w.servers[0]); status != http.StatusServiceUnavailable || !strings.Contains(body, "NOSPACE") {
			return fmt.Errorf("/ready says %d %s", status, body)
		}
		return nil
	})
	time.Sleep(2 * time.Second) // guests ask repeatedly meanwhile
	reply, err := client.Delete(ctx, "else/", clientv3.WithPrefix())
	must(t, err)
	_, err = client.Compact(ctx, reply.Header.Revision, clientv3.WithCompactPhysical())
	must(t, err)
	for _, m := range c.Members {
		_, err := client.Defragment(ctx, m.Client)
		must(t, err)
	}
	_, err = client.AlarmDisarm(ctx, &clientv3.AlarmMember{})
	must(t, err)
	l.more(t, 5)
	w.eventually(t, "a server that is ready again", func() error {
		if status, body := w.ready(w.servers[0]); status != http.StatusOK {
			return fmt.Errorf("/ready says %d %s", status, body)
		}
		return nil
	})
	w.judge(l)
}

// ready asks a server whether it is ready.
func (w *rig) ready(s *server) (int, string) {
	response, err := http.Get("http://" + s.health + "/ready")
	if err != nil {
		return 0, err.Error()
	}
	defer response.Body.Close()
	body, _ := io.ReadAll(response.Body)
	return response.StatusCode, string(body)
}

func (w *rig) eventually(t *testing.T, what string, try func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if err = try(); err == nil {
			return
		}
	}
	t.Fatalf("waiting for %s: %v", what, err)
}
