package platform

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/rootvouch/rootvouch/internal/needs"
	"github.com/rootvouch/rootvouch/test/childtest"
)

// TestTap: with our arguments QEMU connects a guest to a tap device. The test runs
// in a network namespace of its own.
func TestTap(t *testing.T) {
	needs.Boot(t)
	needs.Root(t)
	g := Guest{Network: Network{Kind: Tap, Name: "tap0", MAC: MACOf("web1")}}
	cmd := childtest.Tied(exec.CommandContext(t.Context(), "unshare", "--net", "sh", "-euc", `ip tuntap add tap0 mode tap; exec "$@"`, "sh",
		needs.Tool(t, DefaultQEMU), "-nodefaults", "-display", "none", "-machine", "q35", "-S", "-monitor", "stdio", "-netdev", g.netdev(), "-device", g.nic()))
	cmd.Stdin = strings.NewReader("info network\nquit\n")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "ifname=tap0") || !strings.Contains(string(out), "macaddr="+g.Network.MAC.String()) {
		t.Errorf("%v\n%s", err, out)
	}
}
