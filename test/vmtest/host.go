package vmtest

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Monitored returns QEMU's arguments for a monitor of the host's own, and its
// socket, for Command.
func Monitored(t testing.TB) (args []string, socket string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "rv") // short: the path of a socket has 107 bytes at most
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket = filepath.Join(dir, "qmp")
	return []string{"-qmp", "unix:" + socket + ",server=on,wait=off"}, socket
}

// Command sends a command of the host to a running QEMU (QMP, "QEMU Machine
// Protocol"), and fails the test unless QEMU executes it.
func Command(t testing.TB, socket, name string, arguments map[string]any) {
	t.Helper()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	decoder := json.NewDecoder(conn)
	for _, message := range []map[string]any{{"execute": "qmp_capabilities"}, {"execute": name, "arguments": arguments}} {
		if message["arguments"] == nil || len(arguments) == 0 {
			delete(message, "arguments")
		}
		if err := json.NewEncoder(conn).Encode(message); err != nil {
			t.Fatal(err)
		}
		for answered := false; !answered; {
			var m struct{ Return, Error json.RawMessage }
			if err := decoder.Decode(&m); err != nil {
				t.Fatalf("QMP %s: %v", name, err)
			}
			if m.Error != nil {
				t.Fatalf("QMP %s: %s", name, m.Error)
			}
			answered = m.Return != nil
		}
	}
}
