package boot_test

import (
	"encoding/json"
	"net"
	"sync"
	"testing"
	"time"
)

// monitor is the host's control of a running QEMU (QMP). It learns how a VM ended
// itself: by its power switch, or by a reset, as after a kernel panic.
type monitor struct {
	t    *testing.T
	conn net.Conn

	mu    sync.Mutex
	ended string // reason of SHUTDOWN
	done  chan struct{}
}

// newMonitor connects to a QEMU that has just been started.
func newMonitor(t *testing.T, path string) *monitor {
	t.Helper()
	var conn net.Conn
	var err error
	for range 500 { // ten seconds
		if conn, err = net.Dial("unix", path); err == nil {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err != nil {
		t.Fatal(err)
	}
	m := &monitor{t: t, conn: conn, done: make(chan struct{})}
	m.execute("qmp_capabilities")
	go m.read()
	return m
}

func (m *monitor) execute(command string) { m.with(command, nil) }

// with executes a command with arguments.
func (m *monitor) with(command string, arguments map[string]any) {
	message := map[string]any{"execute": command}
	if arguments != nil {
		message["arguments"] = arguments
	}
	if err := json.NewEncoder(m.conn).Encode(message); err != nil {
		m.t.Errorf("QMP %s: %v", command, err)
	}
}

// read reads events until QEMU ends.
func (m *monitor) read() {
	defer close(m.done)
	for decoder := json.NewDecoder(m.conn); ; {
		var message struct {
			Event string
			Error any
			Data  struct{ Reason string }
		}
		if decoder.Decode(&message) != nil {
			return
		}
		if message.Error != nil {
			m.t.Errorf("QMP: %v", message.Error)
		}
		if message.Event == "SHUTDOWN" {
			m.mu.Lock()
			m.ended = message.Data.Reason
			m.mu.Unlock()
		}
	}
}

// reason waits for QEMU's end and returns how the VM ended.
func (m *monitor) reason() string {
	<-m.done
	m.conn.Close()
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ended
}
