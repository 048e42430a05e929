package boot_test

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// debugger is QEMU's gdbstub (GDB, "Remote Serial Protocol"). It stands for an
// attack that a host can make on a confidential guest without reading registers: to
// make the next instruction of the kernel an exception.
type debugger struct {
	conn net.Conn
	r    *bufio.Reader
}

// debuggerAt returns QEMU's arguments for a gdbstub, and where it listens.
func (b *bench) debuggerAt(t *testing.T) (args []string, socket string) {
	socket = filepath.Join(b.sockets, strings.ReplaceAll(filepath.Base(t.Name()), " ", "-")+".gdb")
	return []string{"-gdb", "unix:" + socket + ",server=on,wait=off"}, socket
}

// breakKernel stops the VM again and again until a processor is in the kernel. It
// then writes an undefined instruction there, and lets the VM run on.
func breakKernel(t *testing.T, socket string) {
	for range 500 {
		done, err := tryBreak(socket)
		if err != nil {
			t.Errorf("gdbstub: %v", err)
			return
		}
		if done {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("gdbstub: no processor was seen in the kernel")
}

func tryBreak(socket string) (done bool, err error) {
	conn, err := net.Dial("unix", socket) // which stops the VM
	if err != nil {
		return false, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return false, err
	}
	d := &debugger{conn: conn, r: bufio.NewReader(conn)}
	if _, err := d.command("?"); err != nil {
		return false, err
	}
	text, err := d.command("g")
	if err != nil {
		return false, err
	}
	const rip = 16 * 8 // behind the sixteen general registers
	registers, err := hex.DecodeString(text[:2*(rip+8)])
	if err != nil {
		return false, err
	}
	at := binary.LittleEndian.Uint64(registers[rip:])
	if at>>63 == 1 {
		const undefined = "0f0b" // ud2
		if reply, err := d.command(fmt.Sprintf("M%x,2:%s", at, undefined)); err != nil || reply != "OK" {
			return false, fmt.Errorf("writing at %#x: %q, %v", at, reply, err)
		}
		done = true
	}
	_, err = d.command("D") // which lets it run on
	return done, err
}

// command sends a packet and returns the reply's.
func (d *debugger) command(text string) (string, error) {
	var sum byte
	for _, c := range []byte(text) {
		sum += c
	}
	if _, err := fmt.Fprintf(d.conn, "$%s#%02x", text, sum); err != nil {
		return "", err
	}
	if _, err := d.r.ReadString('$'); err != nil {
		return "", fmt.Errorf("%s: %w", text, err)
	}
	reply, err := d.r.ReadString('#')
	if err != nil {
		return "", fmt.Errorf("%s: %w", text, err)
	}
	if _, err := d.r.Discard(2); err != nil {
		return "", err
	}
	_, err = d.conn.Write([]byte("+"))
	return strings.TrimSuffix(reply, "#"), err
}
