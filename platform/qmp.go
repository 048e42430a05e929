package platform

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
)

// qmp speaks the part of the QEMU Machine Protocol (QEMU,
// docs/interop/qmp-spec.rst) that the runner needs. One goroutine uses it, first
// for commands, then for events.
type qmp struct {
	w io.Writer
	r *json.Decoder
}

// qmpMessage is any message that QEMU sends. It ignores unknown members, because a
// newer QEMU may add some.
type qmpMessage struct {
	QMP    json.RawMessage `json:"QMP"`
	Return json.RawMessage `json:"return"`
	Error  *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
	Event string `json:"event"`
	Data  struct {
		Guest  bool   `json:"guest"`
		Reason string `json:"reason"`
		Open   bool   `json:"open"`
	} `json:"data"`
}

// The events that the runner reads.
const (
	eventShutdown = "SHUTDOWN"
	eventPort     = "VSERPORT_CHANGE"

	reasonShutdown = "guest-shutdown"
	reasonReset    = "guest-reset"
	reasonPanic    = "guest-panic"
)

// newQMP reads QEMU's greeting and leaves negotiation mode.
func newQMP(conn io.ReadWriter) (*qmp, error) {
	q := &qmp{w: conn, r: json.NewDecoder(conn)}
	var greeting qmpMessage
	if err := q.r.Decode(&greeting); err != nil {
		return nil, fmt.Errorf("reading QEMU's greeting: %w", err)
	}
	if greeting.QMP == nil {
		return nil, errors.New("reading QEMU's greeting: got another message")
	}
	_, err := q.execute("qmp_capabilities", nil)
	return q, err
}

// execute runs a command and returns its result. It drops events that come in
// between, because the VM does not run yet.
func (q *qmp) execute(command string, arguments map[string]any) (json.RawMessage, error) {
	request := map[string]any{"execute": command}
	if arguments != nil {
		request["arguments"] = arguments
	}
	data, err := json.Marshal(request)
	if err != nil {
		return nil, err
	}
	if _, err := q.w.Write(append(data, '\n')); err != nil {
		return nil, fmt.Errorf("sending QEMU the command %s: %w", command, err)
	}
	for {
		var m qmpMessage
		if err := q.r.Decode(&m); err != nil {
			return nil, fmt.Errorf("waiting for QEMU's answer to %s: %w", command, err)
		}
		switch {
		case m.Error != nil:
			return nil, fmt.Errorf("QEMU refuses the command %s: %s: %s", command, m.Error.Class, m.Error.Desc)
		case m.Return != nil:
			return m.Return, nil
		}
	}
}

// cont lets the VM run. Its answer comes among the events.
func (q *qmp) cont() error {
	_, err := io.WriteString(q.w, `{"execute":"cont"}`+"\n")
	return err
}

// forwards asks QEMU for the host ports of these forwards, and returns them in the
// same order. Only the human monitor shows them.
func (q *qmp) forwards(want []Forward) ([]Forward, error) {
	if len(want) == 0 {
		return nil, nil
	}
	data, err := q.execute("human-monitor-command", map[string]any{"command-line": "info usernet"})
	if err != nil {
		return nil, err
	}
	var text string
	if err := json.Unmarshal(data, &text); err != nil {
		return nil, fmt.Errorf("reading QEMU's forwards: %v", err)
	}
	return parseForwards(text, want)
}

// parseForwards finds the forwards in the table of `info usernet`: protocol and
// state, descriptor, source address and port, destination address and port.
func parseForwards(text string, want []Forward) ([]Forward, error) {
	var listed []Forward
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 6 || fields[0] != "TCP[HOST_FORWARD]" {
			continue
		}
		host, err := netip.ParseAddrPort(fields[2] + ":" + fields[3])
		if err != nil {
			return nil, fmt.Errorf("reading QEMU's forwards: %v", err)
		}
		guest, err := strconv.ParseUint(fields[5], 10, 16)
		if err != nil {
			return nil, fmt.Errorf("reading QEMU's forwards: %v", err)
		}
		listed = append(listed, Forward{Host: host, GuestPort: uint16(guest)})
	}
	found := make([]Forward, 0, len(want))
	for _, w := range want {
		at := -1
		for i, l := range listed {
			if l.GuestPort == w.GuestPort && l.Host.Addr() == w.Host.Addr() && (w.Host.Port() == 0 || w.Host.Port() == l.Host.Port()) {
				at = i
				break
			}
		}
		if at < 0 {
			return nil, fmt.Errorf("reading QEMU's forwards: %v is not among %v", w, listed)
		}
		found = append(found, listed[at])
		listed = append(listed[:at], listed[at+1:]...)
	}
	return found, nil
}

// events calls started when the guest opens a virtio port. It returns the reason
// for the shutdown that QEMU gave before it ended, or "".
func (q *qmp) events(started func()) (reason string) {
	for {
		var m qmpMessage
		if err := q.r.Decode(&m); err != nil {
			return reason
		}
		switch {
		case m.Event == eventPort && m.Data.Open:
			started()
		case m.Event == eventShutdown && reason == "":
			reason = m.Data.Reason
		}
	}
}
