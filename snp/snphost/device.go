package snphost

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/rootvouch/rootvouch/snp"
)

// Linux, include/uapi/linux/psp-sev.h.
const (
	issueCommand = 0xc0105300 // SEV_ISSUE_CMD: _IOWR('S', 0, struct sev_issue_cmd)

	getID2            = 8
	snpPlatformStatus = 9

	statusSize = 32 // struct sev_user_data_snp_status
	chipIDSize = len(snp.ChipID{})

	invalidLength = 4 // SEV_RET_INVALID_LEN
)

// issue is struct sev_issue_cmd, which is packed: 16 bytes.
type issue struct {
	cmd      uint32
	dataLow  uint32 // address of the command's own structure, in two halves: the
	dataHigh uint32 // field is 8 bytes at offset 4
	fwError  uint32 // SNP firmware ABI 56860 and SEV API 55766, status codes
}

// Device is the AMD-SP as the host's kernel exposes it.
type Device struct {
	root  string // "/" except in tests: dev/sev and proc/cpuinfo are below it
	ioctl func(fd uintptr, argument *issue) error
}

// Open returns the device of this host. It opens no file; Identify does.
func Open() *Device { return &Device{root: "/", ioctl: ioctl} }

func ioctl(fd uintptr, argument *issue) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, issueCommand, uintptr(unsafe.Pointer(argument)))
	if errno != 0 {
		return errno
	}
	return nil
}

// Identify asks the AMD-SP for its chip ID and its firmware version.
func (d *Device) Identify() (Identity, error) {
	id := Identity{Version: version}
	cpuinfo, err := os.ReadFile(filepath.Join(d.root, "proc/cpuinfo"))
	if err != nil {
		return Identity{}, fmt.Errorf("identifying the processor: %w", err)
	}
	if id.CPUID, err = parseCPUInfo(string(cpuinfo)); err != nil {
		return Identity{}, fmt.Errorf("identifying the processor: %w", err)
	}
	if id.Product, err = id.CPUID.Product(); err != nil {
		return Identity{}, err
	}
	f, err := os.OpenFile(filepath.Join(d.root, "dev/sev"), os.O_RDWR, 0)
	if err != nil {
		return Identity{}, fmt.Errorf("opening the AMD-SP: %w", err)
	}
	defer f.Close()
	if err := d.status(f.Fd(), &id); err != nil {
		return Identity{}, fmt.Errorf("asking the AMD-SP for its status (SNP_PLATFORM_STATUS): %w", err)
	}
	if id.ChipIDs, err = d.chipIDs(f.Fd()); err != nil {
		return Identity{}, fmt.Errorf("asking the AMD-SP for its ID (GET_ID2): %w", err)
	}
	if err := id.Check(); err != nil {
		return Identity{}, fmt.Errorf("reading the AMD-SP's answers: %w", err)
	}
	return id, nil
}

// status asks for struct sev_user_data_snp_status (56860, SNP_PLATFORM_STATUS,
// structure STATUS): 0 API major, 1 API minor, 2 state (0 UNINIT, 1 INIT), 3 bit 0
// RMP initialized, 4-7 build, 8-11 bit 0 MASK_CHIP_ID, bit 1 MASK_CHIP_KEY, bit 2
// VLEK_EN, 12-15 guests, 16-23 current TCB, 24-31 reported TCB. status ignores
// reserved bits, because newer firmware has given some of them a meaning.
func (d *Device) status(fd uintptr, id *Identity) error {
	s := make([]byte, statusSize)
	if err := d.issue(fd, snpPlatformStatus, s); err != nil {
		return err
	}
	flags := binary.LittleEndian.Uint32(s[8:])
	id.Firmware = Firmware{Major: s[0], Minor: s[1], Build: binary.LittleEndian.Uint32(s[4:])}
	id.Initialized = s[2] == 1 && s[3]&1 != 0
	id.MasksChipID, id.MasksKey, id.SignsWithVLEK = flags&1 != 0, flags&2 != 0, flags&4 != 0
	id.CurrentTCB = snp.TCBVersion(binary.LittleEndian.Uint64(s[16:]))
	id.ReportedTCB = snp.TCBVersion(binary.LittleEndian.Uint64(s[24:]))
	return nil
}

// chipIDs asks for the IDs of all sockets, one after the other (55766, GET_ID). The
// firmware returns their length, whether the buffer was large enough or not.
func (d *Device) chipIDs(fd uintptr) ([]snp.ChipID, error) {
	ids, length, err := d.getID(fd, 2*chipIDSize)
	var refused *firmwareError
	if errors.As(err, &refused) && refused.code == invalidLength && length > 2*chipIDSize && length <= maxSockets*chipIDSize {
		ids, length, err = d.getID(fd, length)
	}
	if err != nil {
		return nil, err
	}
	if length <= 0 || length > len(ids) || length%chipIDSize != 0 {
		return nil, fmt.Errorf("the ID has %d bytes, want %d for each socket", length, chipIDSize)
	}
	var chips []snp.ChipID
	for at := 0; at < length; at += chipIDSize {
		chip := snp.ChipID(ids[at : at+chipIDSize])
		if chip != (snp.ChipID{}) { // an empty socket
			chips = append(chips, chip)
		}
	}
	return chips, nil
}

// getID makes the request GET_ID2 with a buffer of room bytes. It returns the
// bytes, and the length that the firmware reports, also with an error.
func (d *Device) getID(fd uintptr, room int) ([]byte, int, error) {
	ids := make([]byte, room)
	var pins runtime.Pinner // the kernel gets the address as a number, which the garbage collector does not see
	defer pins.Unpin()
	pins.Pin(&ids[0])
	// struct sev_user_data_get_id2: 0-7 address, 8-11 length.
	request := binary.LittleEndian.AppendUint64(nil, uint64(uintptr(unsafe.Pointer(&ids[0]))))
	request = binary.LittleEndian.AppendUint32(request, uint32(room))
	err := d.issue(fd, getID2, request)
	return ids, int(binary.LittleEndian.Uint32(request[8:])), err
}

// issue makes the AMD-SP execute one command on data.
func (d *Device) issue(fd uintptr, command uint32, data []byte) error {
	var pins runtime.Pinner
	defer pins.Unpin()
	pins.Pin(&data[0])
	address := uint64(uintptr(unsafe.Pointer(&data[0])))
	argument := &issue{cmd: command, dataLow: uint32(address), dataHigh: uint32(address >> 32)}
	err := d.ioctl(fd, argument)
	switch {
	case err == nil:
		return nil
	case argument.fwError != 0:
		return &firmwareError{argument.fwError, err}
	case errors.Is(err, unix.EINVAL) && command == snpPlatformStatus:
		return fmt.Errorf("%w: want a host kernel of 6.11 or newer that has initialized SEV-SNP (rootvouch host check)", err)
	}
	return err
}

// firmwareError is a status code of the firmware.
type firmwareError struct {
	code uint32
	err  error
}

func (e *firmwareError) Error() string {
	return fmt.Sprintf("firmware error is %#x, want none: %v", e.code, e.err)
}
func (e *firmwareError) Unwrap() error { return e.err }
