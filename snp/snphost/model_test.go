package snphost

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// model is the kernel's /dev/sev with an AMD-SP behind it, below the ioctl: it reads
// and writes the caller's memory by the addresses in struct sev_issue_cmd, as Linux's
// drivers/crypto/ccp/sev-dev.c does.
type model struct {
	family, model, stepping int
	vendor                  string
	status                  []byte // struct sev_user_data_snp_status
	ids                     []byte // of all sockets
	errno                   unix.Errno
	fwError                 uint32
	noSNP                   bool // a kernel that does not know the command
	asked                   []uint32
}

// genoa returns an ordinary host with one socket.
func genoa() *model {
	m := &model{vendor: "AuthenticAMD", family: 0x19, model: 0x11, stepping: 1, status: make([]byte, statusSize), ids: make([]byte, chipIDSize)}
	for i := range m.ids {
		m.ids[i] = byte(i + 1)
	}
	copy(m.status, []byte{1, 55, 1, 1, 22, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0})
	copy(m.status[16:], []byte{10, 0, 0, 0, 0, 0, 26, 84})
	copy(m.status[24:], []byte{10, 0, 0, 0, 0, 0, 25, 84})
	return m
}

// device is the model's device, with its files.
func (m *model) device(t *testing.T) *Device {
	t.Helper()
	root := t.TempDir()
	for path, text := range map[string]string{
		"dev/sev": "",
		"proc/cpuinfo": "processor\t: 0\nvendor_id\t: " + m.vendor + "\ncpu family\t: " + strconv.Itoa(m.family) + "\nmodel\t\t: " + strconv.Itoa(m.model) +
			"\nmodel name\t: AMD EPYC 9354 32-Core Processor\nstepping\t: " + strconv.Itoa(m.stepping) + "\n\nprocessor\t: 1\nmodel\t\t: 255\n\n",
	} {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return &Device{root: root, ioctl: m.ioctl}
}

func (m *model) ioctl(_ uintptr, argument *issue) error {
	m.asked = append(m.asked, argument.cmd)
	if m.errno != 0 {
		argument.fwError = m.fwError
		return m.errno
	}
	raw := (*[16]byte)(unsafe.Pointer(argument)) // as the kernel sees it
	data := user(binary.LittleEndian.Uint64(raw[4:12]))
	switch {
	case argument.cmd == snpPlatformStatus && !m.noSNP:
		copy(unsafe.Slice(data, statusSize), m.status)
		return nil
	case argument.cmd == getID2:
		return m.getID(unsafe.Slice(data, 12), raw)
	}
	return unix.EINVAL
}

// getID is the firmware's GET_ID. It returns the size that it needs, or the size
// that it wrote.
func (m *model) getID(request []byte, raw *[16]byte) error {
	room := binary.LittleEndian.Uint32(request[8:])
	binary.LittleEndian.PutUint32(request[8:], uint32(len(m.ids)))
	if int(room) < len(m.ids) {
		binary.LittleEndian.PutUint32(raw[12:], invalidLength)
		return unix.EIO
	}
	copy(unsafe.Slice(user(binary.LittleEndian.Uint64(request)), room), m.ids)
	return nil
}

// user is memory of the caller, by an address that it pinned.
func user(address uint64) *byte {
	return *(**byte)(unsafe.Pointer(&address))
}
