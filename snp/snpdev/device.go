// Package snpdev asks the AMD-SP for attestation reports from inside the guest.
//
// There are three interfaces: configfs-tsm (Linux 6.7 and later), the ioctls of
// /dev/sev-guest, and, on the emulated platform only, a virtio port to a software
// AMD-SP. Each gives a report, with the certificates that the host has for it.
// Callers see no difference.
//
// The host is between guest and AMD-SP. It can refuse service, and it chooses the
// certificates. It cannot change a report without breaking the signature, which a
// verifier checks with package appraise. This package only refuses a report with
// other REPORT_DATA than it asked for.
package snpdev

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/rootvouch/rootvouch/evidence"
	"github.com/rootvouch/rootvouch/snp"
)

// The interfaces, by their names in boot.json's report_device.
const (
	ConfigfsTSM = "configfs-tsm"
	SEVGuest    = "sev-guest"
	VirtioPort  = "virtio-port"
)

const (
	tsmReports     = "/sys/kernel/config/tsm/report"
	sevGuestPath   = "/dev/sev-guest"
	virtioPorts    = "/sys/class/virtio-ports"
	virtioPortName = "org.rootvouch.asp"

	// vmpl is the privilege level of the requested reports. All software of a
	// rootvouch guest runs at VMPL 0.
	vmpl = 0

	// maxCertificates bounds the certificate table in bytes: SEV_FW_BLOB_MAX_SIZE
	// of Linux's drivers/virt/coco/sev-guest.
	maxCertificates = 0x4000

	// deadline bounds one question to the software AMD-SP, all retries included.
	// The other two interfaces have the same bound: the kernel stops asking a
	// throttling host after 60 s.
	deadline = 60 * time.Second
)

// ErrNotFound matches the errors of Open if the kernel of this guest does not have
// the device.
var ErrNotFound = errors.New("no such report device")

// Device is one interface to the AMD-SP. It holds nothing open between questions.
// Several goroutines can use it at once.
type Device struct {
	kind string
	ask  func(snp.ReportRequest) (answer, error)
}

// answer is the answer of an interface: MSG_REPORT_RSP's report, and the certificate
// table (GHCB specification 56421, "SNP Extended Guest Request"), which is empty if
// the host has no certificates.
type answer struct {
	report       []byte
	certificates []byte
}

// Open finds the report device of the given kind at its usual path. An error that
// matches ErrNotFound says what is missing.
func Open(kind string) (*Device, error) { return OpenPath(kind, "") }

// OpenPath is Open for a device at another path: the directory "tsm/report" of a
// configfs for ConfigfsTSM, the character device otherwise. For VirtioPort the path
// may also be a unix socket, on which a software AMD-SP listens without a VM. An
// empty path means the usual one.
func OpenPath(kind, path string) (*Device, error) {
	switch kind {
	case ConfigfsTSM:
		return openTSM(orElse(path, tsmReports))
	case SEVGuest:
		return openSEVGuest(orElse(path, sevGuestPath))
	case VirtioPort:
		if path == "" {
			found, err := findPort(virtioPorts, "/dev")
			if err != nil {
				return nil, err
			}
			path = found
		}
		return openPort(path, deadline)
	}
	return nil, fmt.Errorf("report device is %q, want %s, %s or %s", kind, ConfigfsTSM, SEVGuest, VirtioPort)
}

// Kind returns the kind with which the device was opened.
func (d *Device) Kind() string { return d.kind }

// Emulated reports whether reports come from a software AMD-SP: NOT CONFIDENTIAL.
func (d *Device) Emulated() bool { return d.kind == VirtioPort }

// Evidence asks for a fresh report over reportData at VMPL 0, and returns it with
// the host's certificates, that of the signing key first. If the host has no
// certificate of that key, the evidence has no certificates, and the verifier must
// have its own.
func (d *Device) Evidence(reportData [64]byte) (evidence.Evidence, error) {
	got, err := d.ask(snp.ReportRequest{ReportData: reportData, VMPL: vmpl})
	if err != nil {
		return evidence.Evidence{}, fmt.Errorf("asking %s for a report: %w", d.kind, err)
	}
	report, err := snp.ParseReport(got.report)
	if err != nil {
		return evidence.Evidence{}, fmt.Errorf("reading the report of %s: %v", d.kind, err)
	}
	if report.ReportData != snp.ReportData(reportData) {
		return evidence.Evidence{}, fmt.Errorf("reading the report of %s: REPORT_DATA is %x, want %x", d.kind, report.ReportData, reportData)
	}
	chain, err := chainOf(report, got.certificates)
	if err != nil {
		return evidence.Evidence{}, fmt.Errorf("reading the certificates of %s: %v", d.kind, err)
	}
	return evidence.Evidence{Report: got.report, Certificates: chain}, nil
}

func orElse(s, fallback string) string {
	if s == "" {
		return fallback
	}
	return s
}

// present reports why a device at path cannot be used, or nil.
func present(path, hint string) error {
	_, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("finding %s: %w: %s", path, ErrNotFound, hint)
	case err != nil:
		return fmt.Errorf("finding %s: %w", path, err)
	}
	return nil
}
