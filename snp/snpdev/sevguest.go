package snpdev

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/rootvouch/rootvouch/snp"
)

// Linux, include/uapi/linux/sev-guest.h.
const (
	snpGetReport    = 0xc0205300 // SNP_GET_REPORT: _IOWR('S', 0, struct snp_guest_request_ioctl)
	snpGetExtReport = 0xc0205302 // SNP_GET_EXT_REPORT: _IOWR('S', 2, …)

	messageVersion = 1    // msg_version, "must be non-zero"
	responseSize   = 4000 // struct snp_report_resp

	reportResponseSize = snp.ReportResponseHeader + snp.ReportSize // bytes of a MSG_REPORT_RSP with a report

	vmmInvalidLength = 1 // SNP_GUEST_VMM_ERR_INVALID_LEN: the certificates do not fit into the buffer
	vmmBusy          = 2 // SNP_GUEST_VMM_ERR_BUSY
)

// guestRequest is struct snp_guest_request_ioctl, 32 bytes.
type guestRequest struct {
	msgVersion uint8
	_          [7]byte
	reqData    uint64 // address
	respData   uint64 // address
	fwError    uint32 // SNP firmware ABI 56860, status codes
	vmmError   uint32 // GHCB specification 56421, "SNP Guest Request", SW_EXITINFO2[63:32]
}

// extReportRequest is struct snp_ext_report_req, 112 bytes.
type extReportRequest struct {
	data         [snp.ReportRequestSize]byte // struct snp_report_req
	certsAddress uint64
	certsLen     uint32 // bytes of the buffer; the kernel writes the needed size
	_            [4]byte
}

func openSEVGuest(path string) (*Device, error) {
	if err := present(path, "want the module sev-guest loaded in a SEV-SNP guest"); err != nil {
		return nil, err
	}
	return &Device{kind: SEVGuest, ask: sevGuest{path, ioctl}.ask}, nil
}

// sevGuest asks through /dev/sev-guest.
type sevGuest struct {
	path  string
	ioctl func(fd uintptr, operation uint, argument *guestRequest) error
}

func ioctl(fd uintptr, operation uint, argument *guestRequest) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, uintptr(operation), uintptr(unsafe.Pointer(argument)))
	if errno != 0 {
		return errno
	}
	return nil
}

func (s sevGuest) ask(request snp.ReportRequest) (answer, error) {
	f, err := os.OpenFile(s.path, os.O_RDWR, 0)
	if err != nil {
		return answer{}, err
	}
	defer f.Close()
	got, err := s.extended(f.Fd(), request)
	if errors.Is(err, errTooManyCertificates) {
		// The host's table is larger than the kernel accepts. A verifier that has
		// the certificates itself can still judge the report.
		return s.plain(f.Fd(), request)
	}
	return got, err
}

// extended makes the request SNP_GET_EXT_REPORT: the report with the host's
// certificates.
func (s sevGuest) extended(fd uintptr, request snp.ReportRequest) (answer, error) {
	certificates := make([]byte, maxCertificates)
	ext := &extReportRequest{data: [snp.ReportRequestSize]byte(request.Marshal()), certsLen: maxCertificates}
	var pins runtime.Pinner // the kernel gets addresses as numbers, which the garbage collector does not see
	defer pins.Unpin()
	pins.Pin(&certificates[0])
	ext.certsAddress = uint64(uintptr(unsafe.Pointer(&certificates[0])))
	response, err := s.call(fd, snpGetExtReport, unsafe.Pointer(ext))
	if err != nil {
		return answer{}, err
	}
	report, err := reportOf(response)
	if err != nil {
		return answer{}, err
	}
	return answer{report: report, certificates: certificates}, nil
}

// plain makes the request SNP_GET_REPORT: the report alone.
func (s sevGuest) plain(fd uintptr, request snp.ReportRequest) (answer, error) {
	data := [snp.ReportRequestSize]byte(request.Marshal())
	response, err := s.call(fd, snpGetReport, unsafe.Pointer(&data))
	if err != nil {
		return answer{}, err
	}
	report, err := reportOf(response)
	return answer{report: report}, err
}

var errTooManyCertificates = errors.New("the host has more certificates than the kernel takes")

// call makes one guest request and returns struct snp_report_resp.
func (s sevGuest) call(fd uintptr, operation uint, request unsafe.Pointer) ([]byte, error) {
	response := make([]byte, responseSize)
	var pins runtime.Pinner
	defer pins.Unpin()
	pins.Pin(&response[0])
	pins.Pin(request)
	argument := &guestRequest{
		msgVersion: messageVersion,
		reqData:    uint64(uintptr(request)),
		respData:   uint64(uintptr(unsafe.Pointer(&response[0]))),
	}
	err := s.ioctl(fd, operation, argument)
	switch {
	case err == nil:
		return response, nil
	case argument.vmmError == vmmInvalidLength && operation == snpGetExtReport:
		return nil, errTooManyCertificates
	case argument.vmmError == vmmBusy:
		return nil, fmt.Errorf("the host throttles requests: %w", err)
	case argument.vmmError != 0 || argument.fwError != 0:
		return nil, fmt.Errorf("firmware error is %#x, VMM error is %#x, want none: %w", argument.fwError, argument.vmmError, err)
	}
	return nil, err
}

// reportOf returns the report of the MSG_REPORT_RSP at the start of response. The
// bytes after the report are unused buffer, not part of the message.
func reportOf(response []byte) ([]byte, error) {
	if len(response) < snp.ReportResponseHeader {
		return nil, fmt.Errorf("MSG_REPORT_RSP has %d bytes, want at least %d", len(response), snp.ReportResponseHeader)
	}
	if status := binary.LittleEndian.Uint32(response); status != snp.StatusSuccess {
		return nil, &statusError{status}
	}
	if len(response) < reportResponseSize {
		return nil, fmt.Errorf("MSG_REPORT_RSP has %d bytes, want %d", len(response), reportResponseSize)
	}
	parsed, err := snp.ParseReportResponse(response[:reportResponseSize])
	if err != nil {
		return nil, err
	}
	return parsed.Report, nil
}

// statusError is the error of a request that the AMD-SP understood and refused.
type statusError struct{ status uint32 }

func (e *statusError) Error() string {
	return fmt.Sprintf("STATUS of MSG_REPORT_RSP is %#x, want %#x", e.status, snp.StatusSuccess)
}
