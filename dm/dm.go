// Package dm makes device-mapper devices.
//
// It speaks the ioctls of /dev/mapper/control (Linux, include/uapi/linux/dm-ioctl.h,
// interface version 4.0 and later) for the targets that a root disk needs, dm-crypt
// and dm-verity, and for those of a volume, dm-crypt over dm-integrity. A table is
// loaded read-only unless it says otherwise, so that no fault above can change a disk.
package dm

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// SectorSize is device-mapper's unit of length and offset, in bytes. It does not
// depend on the device's own sector size.
const SectorSize = 512

const controlPath = "/dev/mapper/control"

// maxTable bounds a table line in bytes: a salt of 256 bytes is the longest
// part of any of ours.
const maxTable = 4096

// Target is a table of one target, which starts at sector 0.
type Target struct {
	Length uint64 // 512-byte sectors
	Type   string // the target's name in the kernel
	Params string // the rest of the table line; holds no key
	// Writable lets what is above change the device below. A disk's targets do not
	// have it.
	Writable bool
}

// Control is an open /dev/mapper/control.
type Control struct{ file *os.File }

// Open opens the control device, which devtmpfs has once dm_mod is loaded.
func Open() (*Control, error) {
	file, err := os.OpenFile(controlPath, os.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("opening device-mapper: %w", err)
	}
	return &Control{file: file}, nil
}

// Close closes the control device; devices that were made stay.
func (c *Control) Close() error { return c.file.Close() }

// Device is an active device-mapper device.
type Device struct {
	control *Control
	name    string
	number  uint64 // dev_t as the kernel's huge_encode_dev prints it
}

// Create makes and activates a device. When a part of that fails,
// nothing of the device is left.
func (c *Control) Create(name string, target Target) (*Device, error) {
	reply, err := c.ioctl(unix.DM_DEV_CREATE, name, 0, nil)
	if err != nil {
		return nil, fmt.Errorf("creating device %q: %w", name, err)
	}
	d := &Device{control: c, name: name, number: reply.header.Dev}
	if err := d.load(target); err != nil {
		return nil, d.undo(err)
	}
	if err := d.resume(); err != nil {
		return nil, d.undo(err)
	}
	return d, nil
}

// Find returns an active device that somebody made before.
func (c *Control) Find(name string) (*Device, error) {
	reply, err := c.ioctl(unix.DM_DEV_STATUS, name, 0, nil)
	if err != nil {
		return nil, fmt.Errorf("finding device %q: %w", name, err)
	}
	return &Device{control: c, name: name, number: reply.header.Dev}, nil
}

// undo removes a device that never became active and returns err.
func (d *Device) undo(err error) error {
	if removeErr := d.Remove(); removeErr != nil {
		return fmt.Errorf("%w (and %v)", err, removeErr)
	}
	return err
}

// Replace loads another table and switches to it. Requests under way
// finish with the old table first; when loading fails, the old one stays.
func (d *Device) Replace(target Target) error {
	if err := d.load(target); err != nil {
		return err
	}
	if _, err := d.control.ioctl(unix.DM_DEV_SUSPEND, d.name, unix.DM_SUSPEND_FLAG, nil); err != nil {
		return fmt.Errorf("suspending device %q: %w", d.name, err)
	}
	return d.resume()
}

func (d *Device) load(target Target) error {
	flags := uint32(unix.DM_READONLY_FLAG)
	if target.Writable {
		flags = 0
	}
	if _, err := d.control.ioctl(unix.DM_TABLE_LOAD, d.name, flags, &target); err != nil {
		return fmt.Errorf("loading %s table of device %q: %w", target.Type, d.name, err)
	}
	return nil
}

// resume switches to the loaded table and lets requests flow.
func (d *Device) resume() error {
	if _, err := d.control.ioctl(unix.DM_DEV_SUSPEND, d.name, 0, nil); err != nil {
		return fmt.Errorf("resuming device %q: %w", d.name, err)
	}
	return nil
}

// Remove takes the device away; it must not be in use.
func (d *Device) Remove() error {
	if _, err := d.control.ioctl(unix.DM_DEV_REMOVE, d.name, 0, nil); err != nil {
		return fmt.Errorf("removing device %q: %w", d.name, err)
	}
	return nil
}

// Status returns the target's status line; see VerityCorrupted.
func (d *Device) Status() (string, error) { return d.status(0) }

// Table returns the parameters of the active table as the kernel shows them to
// root.
func (d *Device) Table() (string, error) { return d.status(unix.DM_STATUS_TABLE_FLAG) }

func (d *Device) status(flags uint32) (string, error) {
	reply, err := d.control.ioctl(unix.DM_TABLE_STATUS, d.name, flags, nil)
	if err != nil {
		return "", fmt.Errorf("reading status of device %q: %w", d.name, err)
	}
	line, err := reply.params()
	if err != nil {
		return "", fmt.Errorf("reading status of device %q: %w", d.name, err)
	}
	return line, nil
}

// Number returns the device's number as tables name it, "major:minor".
func (d *Device) Number() string {
	return fmt.Sprintf("%d:%d", unix.Major(d.number), unix.Minor(d.number))
}

// Path returns the node that devtmpfs makes for the device.
func (d *Device) Path() string { return fmt.Sprintf("/dev/dm-%d", unix.Minor(d.number)) }

// ioctl sends one command. A signal may interrupt a suspend; it is asked again.
func (c *Control) ioctl(command uint32, name string, flags uint32, target *Target) (reply, error) {
	buf, err := request(name, flags, target)
	if err != nil {
		return reply{}, err
	}
	for {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, c.file.Fd(), uintptr(command), uintptr(unsafe.Pointer(unsafe.SliceData(buf))))
		if errno == unix.EINTR {
			continue
		}
		runtime.KeepAlive(buf)
		if errno != 0 {
			return reply{}, errno
		}
		return parseReply(buf)
	}
}

// Sizes in bytes of struct dm_ioctl and struct dm_target_spec.
const (
	headerSize = int(unsafe.Sizeof(unix.DmIoctl{}))
	specSize   = int(unsafe.Sizeof(unix.DmTargetSpec{}))
)

// request lays out struct dm_ioctl, and struct dm_target_spec with its
// zero-terminated parameters where there is a target. Every request has room
// for a status line in the reply.
func request(name string, flags uint32, target *Target) ([]byte, error) {
	header := unix.DmIoctl{
		Version:    [3]uint32{4, 0, 0},
		Data_size:  uint32(headerSize + specSize + maxTable),
		Data_start: uint32(headerSize),
		Flags:      flags,
	}
	if err := copyString(header.Name[:], name); err != nil {
		return nil, fmt.Errorf("encoding device name: %w", err)
	}
	var spec unix.DmTargetSpec
	params := make([]byte, maxTable)
	if target != nil {
		header.Target_count = 1
		spec.Length = target.Length
		if err := copyString(spec.Target_type[:], target.Type); err != nil {
			return nil, fmt.Errorf("encoding target type: %w", err)
		}
		if err := copyString(params, target.Params); err != nil {
			return nil, fmt.Errorf("encoding table: %w", err)
		}
	}
	var buf bytes.Buffer
	for _, part := range []any{&header, &spec, params} {
		if err := binary.Write(&buf, binary.NativeEndian, part); err != nil {
			panic("dm: internal error: " + err.Error())
		}
	}
	return buf.Bytes(), nil
}

// copyString copies s with a zero byte after it.
func copyString(dst []byte, s string) error {
	if len(s) >= len(dst) || strings.IndexByte(s, 0) >= 0 {
		return fmt.Errorf("%q has %d bytes, want fewer than %d and no zero byte", s, len(s), len(dst))
	}
	copy(dst, s)
	return nil
}

// reply is what the kernel wrote over a request.
type reply struct {
	header unix.DmIoctl
	data   []byte // from Data_start on
}

func parseReply(buf []byte) (reply, error) {
	var r reply
	if err := binary.Read(bytes.NewReader(buf), binary.NativeEndian, &r.header); err != nil {
		panic("dm: internal error: " + err.Error())
	}
	if r.header.Flags&unix.DM_BUFFER_FULL_FLAG != 0 || r.header.Data_start > uint32(len(buf)) {
		return reply{}, fmt.Errorf("reply does not fit into %d bytes", len(buf))
	}
	r.data = buf[r.header.Data_start:]
	return r, nil
}

// params returns the parameter or status line of the reply's one target.
func (r reply) params() (string, error) {
	if r.header.Target_count != 1 || len(r.data) < specSize {
		return "", fmt.Errorf("table has %d targets, want 1", r.header.Target_count)
	}
	line, _, ok := bytes.Cut(r.data[specSize:], []byte{0})
	if !ok {
		return "", fmt.Errorf("status line has no end")
	}
	return string(line), nil
}
