package snp

import (
	"encoding/binary"
	"fmt"
)

const (
	// ReportRequestSize is the size in bytes of MSG_REPORT_REQ.
	ReportRequestSize = 0x60
	// ReportResponseHeader is the size in bytes of the header before the report in
	// MSG_REPORT_RSP.
	ReportResponseHeader = 0x20
)

// The values of STATUS in MSG_REPORT_RSP (56860, section 7.3, table 25).
const (
	StatusSuccess          = 0x00
	StatusInvalidParameter = 0x16
	StatusInvalidKeySel    = 0x27
)

// ReportRequest is MSG_REPORT_REQ, with which a guest asks for a report
// (56860, section 7.3, table 22).
type ReportRequest struct {
	ReportData ReportData // 0x00
	VMPL       uint32     // 0x40, 0 to 3, not above the requester's privilege
	KeySel     uint32     // 0x44 bits 1:0: 0 firmware's choice, 1 VCEK, 2 VLEK
}

// Marshal returns the request's 96 bytes.
func (q ReportRequest) Marshal() []byte {
	b := make([]byte, ReportRequestSize)
	copy(b, q.ReportData[:])
	binary.LittleEndian.PutUint32(b[0x40:], q.VMPL)
	binary.LittleEndian.PutUint32(b[0x44:], q.KeySel)
	return b
}

// ParseReportRequest decodes exactly one request.
func ParseReportRequest(b []byte) (ReportRequest, error) {
	if len(b) != ReportRequestSize {
		return ReportRequest{}, fmt.Errorf("parsing MSG_REPORT_REQ: got %d bytes, want %d", len(b), ReportRequestSize)
	}
	q := ReportRequest{
		ReportData: ReportData(b[:0x40]),
		VMPL:       binary.LittleEndian.Uint32(b[0x40:]),
		KeySel:     binary.LittleEndian.Uint32(b[0x44:]),
	}
	if err := checkZero(b, 0x48, ReportRequestSize); err != nil {
		return ReportRequest{}, fmt.Errorf("parsing MSG_REPORT_REQ: %v", err)
	}
	if q.VMPL > 3 {
		return ReportRequest{}, fmt.Errorf("parsing MSG_REPORT_REQ: VMPL is %d, want 0 to 3", q.VMPL)
	}
	if q.KeySel > 2 {
		return ReportRequest{}, fmt.Errorf("parsing MSG_REPORT_REQ: KEY_SEL is %d, want 0 to 2", q.KeySel)
	}
	return q, nil
}

// ReportResponse is MSG_REPORT_RSP (56860, section 7.3, table 25).
type ReportResponse struct {
	Status uint32 // 0x00
	Report []byte // 0x20, ReportSize bytes when Status is 0, else none
}

// Marshal returns the response: 32 bytes, then the report.
func (p ReportResponse) Marshal() []byte {
	b := make([]byte, ReportResponseHeader, ReportResponseHeader+len(p.Report))
	binary.LittleEndian.PutUint32(b, p.Status)
	binary.LittleEndian.PutUint32(b[4:], uint32(len(p.Report)))
	return append(b, p.Report...)
}

// ParseReportResponse decodes exactly one response. A status other than 0 is no
// parse error: the caller checks Status. ParseReportResponse checks the size of the
// report, and does not parse it.
func ParseReportResponse(b []byte) (ReportResponse, error) {
	if len(b) < ReportResponseHeader {
		return ReportResponse{}, fmt.Errorf("parsing MSG_REPORT_RSP: got %d bytes, want at least %d", len(b), ReportResponseHeader)
	}
	p := ReportResponse{Status: binary.LittleEndian.Uint32(b)}
	size := binary.LittleEndian.Uint32(b[4:])
	if err := checkZero(b, 8, ReportResponseHeader); err != nil {
		return ReportResponse{}, fmt.Errorf("parsing MSG_REPORT_RSP: %v", err)
	}
	want := uint32(ReportSize)
	if p.Status != StatusSuccess {
		want = 0
	}
	if size != want || len(b) != ReportResponseHeader+int(want) {
		return ReportResponse{}, fmt.Errorf("parsing MSG_REPORT_RSP: REPORT_SIZE is %d in %d bytes, want %d after the header with STATUS %#x", size, len(b), want, p.Status)
	}
	if want > 0 {
		p.Report = append([]byte(nil), b[ReportResponseHeader:]...)
	}
	return p, nil
}
