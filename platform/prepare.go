package platform

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/rootvouch/rootvouch/gate"
	"github.com/rootvouch/rootvouch/internal/bounded"
	"github.com/rootvouch/rootvouch/snp"
	"github.com/rootvouch/rootvouch/snp/firmware"
	"github.com/rootvouch/rootvouch/snp/launch"
)

// maxFirmware bounds a firmware image in bytes, as QEMU does.
const maxFirmware = 16 << 20

// Measured holds the parts of a guest that the AMD-SP measures, read from the
// guest's files once.
type Measured struct {
	// Digest is the launch digest: MEASUREMENT of the guest's reports.
	Digest snp.Measurement

	firmware  []byte
	page      []byte // kernel-hashes page
	pageGPA   uint64
	toMeasure int64 // bytes of kernel and initramfs
}

// Measure reads the guest's files and computes its launch digest, in the same way
// for both platforms. Unless the guest accepts them, Measure refuses a firmware
// that may run code of its host (*firmware.OpenError), and a kernel that is not
// behind the gate (gate.ErrBare or gate.ErrOther).
func Measure(g Guest) (*Measured, error) {
	m := &Measured{}
	var err error
	if m.firmware, err = readFirmware(g.Firmware); err != nil {
		return nil, err
	}
	parsed, err := launch.ParseFirmware(m.firmware)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", g.Firmware, err)
	}
	if !g.AcceptHostCode {
		if err := firmware.Check(m.firmware); err != nil {
			return nil, fmt.Errorf("%s: %w", g.Firmware, err)
		}
	}
	if !g.AcceptBareKernel {
		if err := checkGate(g.Kernel); err != nil {
			return nil, err
		}
	}
	hashes, err := m.hashFiles(g)
	if err != nil {
		return nil, err
	}
	if m.page, m.pageGPA, err = launch.HashesPage(parsed, hashes); err != nil {
		return nil, err
	}
	cpu, err := launch.LookupCPU(g.CPUType)
	if err != nil {
		return nil, err
	}
	m.Digest, err = launch.Digest(launch.Inputs{
		Mode:     launch.SNP,
		Firmware: parsed,
		Hashes:   &hashes,
		VCPU:     launch.VCPU{VMM: launch.QEMU, VMSA: launch.CurrentVMSA, CPU: cpu, Features: 1},
		VCPUs:    g.VCPUs,
	})
	if err != nil {
		return nil, err
	}
	return m, nil
}

func readFirmware(path string) ([]byte, error) {
	data, err := bounded.ReadFile(path, maxFirmware)
	if err != nil {
		return nil, fmt.Errorf("reading firmware: %w", err)
	}
	return data, nil
}

// checkGate refuses a kernel that is not behind the gate.
func checkGate(path string) error {
	data, err := bounded.ReadFile(path, gate.MaxFile)
	if err != nil {
		return fmt.Errorf("reading kernel: %w", err)
	}
	if _, err := gate.Open(data); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

func (m *Measured) hashFiles(g Guest) (launch.Hashes, error) {
	var files [2]*os.File
	paths := []string{g.Kernel, g.Initramfs}
	if g.UKI {
		paths = paths[:1]
	}
	for i, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			return launch.Hashes{}, fmt.Errorf("opening %s: %w", [2]string{"kernel", "initramfs"}[i], err)
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return launch.Hashes{}, err
		}
		m.toMeasure += info.Size()
		files[i] = f
	}
	if g.UKI {
		return launch.HashKernel(files[0], nil, "")
	}
	return launch.HashKernel(files[0], files[1], g.CommandLine)
}

// startBound returns the bound on the time until the kernel starts: twenty times as
// long as the firmware hashes kernel and initramfs under TCG on an idle machine.
func (m *Measured) startBound() time.Duration {
	const perMiB = 500 * time.Millisecond
	return 30*time.Second + time.Duration(m.toMeasure>>20)*perMiB
}

// Command returns the QEMU command of a guest, for a person to read. On SNP the
// command can be run unchanged. On the emulated platform it names two inputs that
// only Start can supply: the kernel-hashes page, and descriptor 3, the software
// AMD-SP.
func Command(program string, g Guest) ([]string, *Measured, error) {
	if program == "" {
		program = DefaultQEMU
	}
	if err := g.Check(); err != nil {
		return nil, nil, fmt.Errorf("checking the guest: %w", err)
	}
	m, err := Measure(g)
	if err != nil {
		return nil, nil, err
	}
	var p Parts
	if g.Kind == Emulated {
		p = Parts{HashesPage: "kernel-hashes.page", HashesAddress: m.pageGPA, AMDSP: 3}
	}
	return append([]string{program}, Args(g, p)...), m, nil
}

// checkFiles refuses paths that QEMU would otherwise refuse after the start.
func (g Guest) checkFiles() error {
	var errs []error
	for _, disk := range g.disks() {
		f, err := os.Open(disk)
		if err != nil {
			errs = append(errs, fmt.Errorf("opening disk: %w", err))
			continue
		}
		var magic [4]byte
		if _, err := io.ReadFull(f, magic[:]); err == nil && string(magic[:]) == "QFI\xfb" {
			errs = append(errs, fmt.Errorf("disk %s is a qcow2, want a raw image (qemu-img convert -f qcow2 -O raw)", disk))
		}
		f.Close()
	}
	return errors.Join(errs...)
}
