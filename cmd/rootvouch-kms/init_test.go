package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestInitialized: both of store and log are there, or none is; one alone is an error. A
// server of a cluster has a log of its own alone.
func TestInitialized(t *testing.T) {
	for _, c := range []struct {
		name              string
		store, log, etcd  bool
		there, contradict bool
	}{
		{name: "nothing"},
		{name: "both", store: true, log: true, there: true},
		{name: "store alone", store: true, contradict: true},
		{name: "log alone", log: true, contradict: true},
		{name: "cluster", etcd: true},
		{name: "cluster with a log", etcd: true, log: true, there: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			text := `{"version":1,"listen":":8443","workload_api":"unix:///a","spiffe_id":"spiffe://example.org/kms","admin_socket":"a",
"log_dir":"` + dir + `/log","collateral_dir":"c","kek":{"file":"k"},"store":"` + dir + `/kms.db"}`
			if c.etcd {
				text = strings.Replace(text, `"store":"`+dir+`/kms.db"`, `"etcd":{"endpoints":["http://127.0.0.1:1"],"prefix":"p/"},"replica":"kms1"`, 1)
			}
			config, err := decodeConfig([]byte(text))
			must(t, err)
			if c.store {
				must(t, os.WriteFile(filepath.Join(dir, "kms.db"), nil, 0o600))
			}
			if c.log {
				must(t, os.Mkdir(filepath.Join(dir, "log"), 0o700))
			}
			if there, err := config.initialized(); there != c.there || (err != nil) != c.contradict {
				t.Errorf("got %v, %v", there, err)
			}
		})
	}
}
