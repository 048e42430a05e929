package asp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"github.com/rootvouch/rootvouch/snp"
	"github.com/rootvouch/rootvouch/snp/launch/idblock"
)

const (
	// reportVersion is VERSION of the reports. Version 3 is the first with the
	// processor's family, model and stepping.
	reportVersion = 3

	// wholeWithin is the longest time from the first byte of a request to its last.
	// A guest writes a request at once. A process that ended may leave a fragment,
	// which must not become the start of the next request.
	wholeWithin = time.Second
)

// Launch holds the values that the AMD-SP gets when a guest is launched (56860,
// sections 8.16 SNP_LAUNCH_START and 8.18 SNP_LAUNCH_FINISH).
type Launch struct {
	Measurement snp.Measurement
	Policy      snp.Policy
	HostData    snp.HostData
	IDBlock     *idblock.Signed // nil: none
}

// check refuses a launch that the AMD-SP would refuse.
func (l Launch) check() error {
	if err := l.Policy.Check(); err != nil {
		return err
	}
	if l.Measurement == (snp.Measurement{}) {
		return errors.New("the launch digest is not set")
	}
	if l.IDBlock == nil {
		return nil
	}
	if want := l.IDBlock.Block.LaunchDigest; l.Measurement != want {
		return fmt.Errorf("the launch digest is %v, want %v: the ID block's", l.Measurement, want)
	}
	if want := l.IDBlock.Block.Policy; l.Policy != want {
		return fmt.Errorf("POLICY is %v, want %v: the ID block's", l.Policy, want)
	}
	return nil
}

// Session is one launched guest: one QEMU process. It is safe for concurrent
// use.
type Session struct {
	chip     *Chip
	rand     io.Reader
	launch   Launch
	reportID snp.ReportID
}

// Launch starts a session with a REPORT_ID of its own. The session keeps rand, for
// its signatures.
func (c *Chip) Launch(rand io.Reader, l Launch) (*Session, error) {
	if err := l.check(); err != nil {
		return nil, fmt.Errorf("launching under the software AMD-SP: %v", err)
	}
	s := &Session{chip: c, rand: rand, launch: l}
	if _, err := io.ReadFull(rand, s.reportID[:]); err != nil {
		return nil, fmt.Errorf("drawing a REPORT_ID: %w", err)
	}
	return s, nil
}

// ReportID returns the REPORT_ID of all the session's reports.
func (s *Session) ReportID() snp.ReportID { return s.reportID }

// Report makes the signed report that q asks for.
func (s *Session) Report(q snp.ReportRequest) (*snp.Report, error) {
	version, err := product.EncodeTCB(tcb())
	if err != nil {
		return nil, err
	}
	r := &snp.Report{
		Version:       reportVersion,
		Policy:        s.launch.Policy,
		VMPL:          q.VMPL,
		SignatureAlgo: 1, // ECDSA P-384 with SHA-384
		CurrentTCB:    version,
		PlatformInfo:  snp.PlatformSMT,
		SigningKey:    snp.VCEK,
		ReportData:    q.ReportData,
		Measurement:   s.launch.Measurement,
		HostData:      s.launch.HostData,
		ReportID:      s.reportID,
		ReportedTCB:   version,
		CPUID:         cpuid(),
		ChipID:        s.chip.chipID,
		CommittedTCB:  version,
		Current:       firmware(),
		Committed:     firmware(),
		LaunchTCB:     version,
	}
	for i := range r.ReportIDMA {
		r.ReportIDMA[i] = 0xff // no migration agent
	}
	if id := s.launch.IDBlock; id != nil {
		r.GuestSVN, r.FamilyID, r.ImageID = id.Block.GuestSVN, id.Block.FamilyID, id.Block.ImageID
		r.IDKeyDigest, r.AuthorKeyDigest = id.IDKeyDigest(), id.AuthorKeyDigest()
		r.AuthorKeyEnabled = id.AuthorKey != nil
	}
	if err := r.Sign(s.rand, s.chip.chain.VCEKKey); err != nil {
		return nil, err
	}
	return r, nil
}

// Answer returns the answer to one request: MSG_REPORT_RSP, followed by the
// certificate table if there is a report. If the request is malformed, or asks for
// a key that the chip does not have, the answer has an error status.
func (s *Session) Answer(request []byte) ([]byte, error) {
	q, err := snp.ParseReportRequest(request)
	if err != nil {
		return refuse(snp.StatusInvalidParameter), nil
	}
	if q.KeySel > 1 { // 0: firmware's choice, 1: VCEK
		return refuse(snp.StatusInvalidKeySel), nil
	}
	r, err := s.Report(q)
	if err != nil {
		return nil, fmt.Errorf("making a report: %w", err)
	}
	chain := s.chip.chain
	return append(snp.ReportResponse{Status: snp.StatusSuccess, Report: r.Marshal()}.Marshal(),
		snp.MarshalCertTable([]snp.CertEntry{
			{GUID: snp.GUIDVCEK, DER: chain.VCEK.Raw},
			{GUID: snp.GUIDASK, DER: chain.ASK.Raw},
			{GUID: snp.GUIDARK, DER: chain.ARK.Raw},
		})...), nil
}

func refuse(status uint32) []byte { return snp.ReportResponse{Status: status}.Marshal() }

// Serve answers the requests on conn, one after the other, until either side closes
// conn. A closed conn is no error. Serve does not close conn.
func (s *Session) Serve(conn net.Conn) error {
	for {
		request, err := receive(conn)
		if ended(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("receiving a report request: %w", err)
		}
		if request == nil {
			continue
		}
		answer, err := s.Answer(request)
		if err != nil {
			return err
		}
		switch err := send(conn, answer); {
		case ended(err):
			return nil
		case err != nil:
			return fmt.Errorf("sending a report: %w", err)
		}
	}
}

// ended reports whether err means that either side closed the connection.
func ended(err error) bool {
	for _, end := range []error{io.EOF, io.ErrClosedPipe, net.ErrClosed, syscall.EPIPE, syscall.ECONNRESET} {
		if errors.Is(err, end) {
			return true
		}
	}
	return false
}

// receive reads one request. For a fragment it returns nil, and drops the fragment.
func receive(conn net.Conn) ([]byte, error) {
	request := make([]byte, snp.ReportRequestSize)
	if err := conn.SetReadDeadline(time.Time{}); err != nil {
		return nil, err
	}
	n, err := conn.Read(request)
	if err != nil {
		return nil, err
	}
	deadline := time.Now().Add(wholeWithin) //nolint:forbidigo // a socket deadline, not a time that decides a verdict
	if err := conn.SetReadDeadline(deadline); err != nil {
		return nil, err
	}
	switch _, err := io.ReadFull(conn, request[n:]); {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, nil
	case errors.Is(err, io.ErrUnexpectedEOF):
		return nil, io.EOF
	case err != nil:
		return nil, err
	}
	return request, nil
}

// send writes an answer with its length in front. It waits until a process in the
// guest opens the port, because QEMU holds the bytes back until then.
func send(conn net.Conn, answer []byte) error {
	message := binary.LittleEndian.AppendUint32(nil, uint32(len(answer)))
	_, err := conn.Write(append(message, answer...))
	return err
}
