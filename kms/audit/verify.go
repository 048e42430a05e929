package audit

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
)

// Scan is what Verify found.
type Scan struct {
	Head Head  // of the last whole line
	Size int64 // bytes of all whole lines
	Torn int64 // bytes of a line that a crash left unfinished after them
}

// Verify reads a whole log and checks every line and the chain. Where must holds a
// head, that line must be in the log; the lines up to it are then those that were
// there when it was the head, and without one nothing is proven. visit, unless nil, gets each record.
func Verify(r io.Reader, must Head, visit func(Record)) (Scan, error) {
	var scan Scan
	anchored := must == Head{}
	in := bufio.NewReaderSize(r, MaxLine)
	for {
		line, err := in.ReadSlice('\n')
		switch {
		case errors.Is(err, io.EOF):
			scan.Torn = int64(len(line))
			return scan, scan.check(must, anchored)
		case errors.Is(err, bufio.ErrBufferFull):
			// A crash can leave a tail of NUL bytes where the data never arrived.
			if scan.Torn, err = restNUL(line, in); err != nil {
				return scan, fmt.Errorf("verifying line %d: %w", scan.Head.Sequence+1, err)
			}
			return scan, scan.check(must, anchored)
		case err != nil:
			return scan, fmt.Errorf("verifying line %d: %w", scan.Head.Sequence+1, err)
		}
		record, head, err := decode(scan.Head, line)
		if err != nil {
			return scan, fmt.Errorf("verifying line %d: %v", scan.Head.Sequence+1, err)
		}
		if head.Sequence == must.Sequence {
			if head != must {
				return scan, fmt.Errorf("verifying line %d: digest is %s, want %s", head.Sequence, head.Digest, must.Digest)
			}
			anchored = true
		}
		scan.Head = head
		scan.Size += int64(len(line))
		if visit != nil {
			visit(record)
		}
	}
}

func (s Scan) check(must Head, anchored bool) error {
	switch {
	case s.Head == Head{}:
		return errors.New("verifying: got no line")
	case !anchored:
		return fmt.Errorf("verifying: log ends at line %d, want line %d: lines were cut off", s.Head.Sequence, must.Sequence)
	}
	return nil
}

// restNUL reads the rest of a tail that begins with start, which may have part of a
// line before its NUL bytes, and says how long the whole tail is.
func restNUL(start []byte, in io.Reader) (int64, error) {
	total := int64(len(start))
	rest := start[len(start)-1:]
	buf := make([]byte, MaxLine)
	for {
		if len(bytes.Trim(rest, "\x00")) != 0 {
			return 0, fmt.Errorf("got more than %d bytes in a line", MaxLine)
		}
		n, err := in.Read(buf)
		total += int64(n)
		rest = buf[:n]
		if n == 0 && errors.Is(err, io.EOF) {
			return total, nil
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
	}
}
