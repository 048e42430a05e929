package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"github.com/rootvouch/rootvouch/internal/cli/spire"
	"github.com/rootvouch/rootvouch/internal/needs"
	"github.com/rootvouch/rootvouch/test/firmwaretest"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"rootvouch": main,
		// Stands for the real one, which has tests of its own.
		spire.Program: func() {
			fmt.Printf("%q\n", os.Args[1:])
			if os.Args[1] == cobra.ShellCompRequestCmd {
				fmt.Println(":4")
				os.Exit(0)
			}
			os.Exit(7)
		},
	})
}

// TestScripts runs testdata/script/*.txtar, one file for each topic.
//
// A script has $TOOL, the path of rootvouch, the firmware images $AMDSEV, $OVMF
// and $SVSM, $KEYS, the directory of id-key.pem and author-key.pem, and $CACHE,
// the directory of scripts/setup; the condition [part:PATTERN] says whether a
// file is there below $CACHE. "json FILE PATH WANT" compares one value of a JSON document; PATH is
// names and indices joined by dots.
func TestScripts(t *testing.T) {
	keys := filepath.Join(needs.Repository(t), "snp", "launch", "idblock", "testdata")
	cache := needs.Cache(t)
	firmware := t.TempDir()
	for name, image := range map[string]firmwaretest.Image{"AmdSev.fd": firmwaretest.AmdSev(), "OvmfX64.fd": firmwaretest.OVMF(), "svsm.bin": firmwaretest.SVSM()} {
		if err := os.WriteFile(filepath.Join(firmware, name), image.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	tool, err := exec.LookPath("rootvouch") // the one that TestMain made
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "script"),
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("AMDSEV", filepath.Join(firmware, "AmdSev.fd"))
			env.Setenv("OVMF", filepath.Join(firmware, "OvmfX64.fd"))
			env.Setenv("SVSM", filepath.Join(firmware, "svsm.bin"))
			env.Setenv("KEYS", keys)
			env.Setenv("CACHE", cache)
			env.Setenv("TOOL", tool)
			return nil
		},
		Condition: func(cond string) (bool, error) {
			var pattern string
			if n, _ := fmt.Sscanf(cond, "part:%s", &pattern); n == 1 {
				found, err := filepath.Glob(filepath.Join(cache, pattern))
				return len(found) > 0, err
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){"json": jsonCommand},
	})
}

// jsonCommand is the script command json.
func jsonCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: json FILE PATH WANT")
	}
	var value any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[0])), &value))
	for name := range strings.SplitSeq(args[1], ".") {
		switch v := value.(type) {
		case map[string]any:
			value = v[name]
		case []any:
			var i int
			if _, err := fmt.Sscan(name, &i); err != nil || i < 0 || i >= len(v) {
				ts.Fatalf("%s: no element %q in a list of %d", args[1], name, len(v))
			}
			value = v[i]
		default:
			ts.Fatalf("%s: %q is below a value", args[1], name)
		}
	}
	if got := fmt.Sprint(value); got != args[2] {
		ts.Fatalf("%s is %s, want %s", args[1], got, args[2])
	}
}
