package etcdkv_test

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/rootvouch/rootvouch/kms/kv"
	"github.com/rootvouch/rootvouch/kms/kv/etcdkv"
	"github.com/rootvouch/rootvouch/kms/kv/kvtest"
	"github.com/rootvouch/rootvouch/test/etcdtest"
)

func TestEngine(t *testing.T) {
	c := etcdtest.Start(t, 3)
	var books atomic.Int32
	prefixes := map[kv.Engine]string{}
	kvtest.Run(t, func(t *testing.T) kv.Engine {
		prefix := fmt.Sprintf("book-%d/", books.Add(1))
		e := c.Open(prefix)
		prefixes[e] = prefix
		return e
	}, func(t *testing.T, e kv.Engine) kv.Engine {
		t.Helper()
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
		again := c.Open(prefixes[e])
		prefixes[again] = prefixes[e]
		return again
	})
}

func TestSourceRefuses(t *testing.T) {
	good := etcdkv.Source{Endpoints: []string{"https://10.0.0.1:2379", "https://kms2:2379"}, Prefix: "rootvouch/", CAFile: "ca", CertFile: "cert", KeyFile: "key"}
	if err := good.Check(); err != nil {
		t.Error(err)
	}
	if err := (etcdkv.Source{Endpoints: []string{"http://127.0.0.1:2379", "http://[::1]:2379"}, Prefix: "x/"}).Check(); err != nil {
		t.Error(err)
	}
	for _, c := range []struct {
		name, want string
		change     func(*etcdkv.Source)
	}{
		{"no endpoint", "there are none", func(s *etcdkv.Source) { s.Endpoints = nil }},
		{"no port", "want https://HOST:PORT", func(s *etcdkv.Source) { s.Endpoints[0] = "https://10.0.0.1" }},
		{"a path", "want https://HOST:PORT", func(s *etcdkv.Source) { s.Endpoints[0] += "/x" }},
		{"no scheme", "endpoints", func(s *etcdkv.Source) { s.Endpoints[0] = "10.0.0.1:2379" }},
		{"in the clear", "http is allowed only on this machine", func(s *etcdkv.Source) { s.Endpoints[0] = "http://10.0.0.1:2379" }},
		{"a name in the clear", "http is allowed only on this machine", func(s *etcdkv.Source) { s.Endpoints[0] = "http://localhost:2379" }},
		{"both", "some are https", func(s *etcdkv.Source) { s.Endpoints[0] = "http://127.0.0.1:2379" }},
		{"no prefix", "prefix", func(s *etcdkv.Source) { s.Prefix = "" }},
		{"prefix without slash", "prefix", func(s *etcdkv.Source) { s.Prefix = "rootvouch" }},
		{"no CA", "all three", func(s *etcdkv.Source) { s.CAFile = "" }},
		{"no key", "all three", func(s *etcdkv.Source) { s.KeyFile = "" }},
		{"files for http", "want none", func(s *etcdkv.Source) { s.Endpoints = []string{"http://127.0.0.1:1"} }},
	} {
		s := good
		s.Endpoints = append([]string{}, good.Endpoints...)
		c.change(&s)
		if err := s.Check(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got error %v, want one with %q", c.name, err, c.want)
		}
	}
}

// TestOutcome holds what may have happened apart from what has not.
func TestOutcome(t *testing.T) {
	for _, c := range []struct {
		err           error
		unknown, full bool
	}{
		{rpctypes.ErrTooManyOps, false, false}, {rpctypes.ErrPermissionDenied, false, false}, {rpctypes.ErrRequestTooLarge, false, false},
		{rpctypes.ErrNoSpace, true, true},
		{rpctypes.ErrTimeout, true, false}, {rpctypes.ErrLeaderChanged, true, false}, {rpctypes.ErrNoLeader, true, false},
		{rpctypes.ErrStopped, true, false}, {rpctypes.ErrInvalidAuthToken, true, false}, {errors.New("connection reset"), true, false},
	} {
		got := etcdkv.Outcome(c.err)
		if errors.Is(got, kv.ErrUnknown) != c.unknown || errors.Is(got, kv.ErrFull) != c.full {
			t.Errorf("%v: got %v, want unknown %t, full %t", c.err, got, c.unknown, c.full)
		}
	}
}
