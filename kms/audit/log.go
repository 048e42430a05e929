package audit

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/rootvouch/rootvouch/internal/durable"
)

// ErrBroken says that the log could not be made durable and that its state on the
// disk is unknown: nothing more is appended until it is opened anew.
var ErrBroken = errors.New("audit log is broken")

// Log is an open log, with one writer. Its methods may be called from several
// goroutines.
type Log struct {
	clock func() time.Time

	mu     sync.Mutex // guards what follows
	file   file
	size   int64 // bytes of all whole lines
	head   Head
	broken error
}

// file is what Log needs of *os.File; a test puts a failing disk in its place.
type file interface {
	io.Writer
	io.Closer
	Sync() error
	Truncate(size int64) error
}

// Create makes a new log at path, mode 0600. The error matches os.ErrExist when
// there is one already.
func Create(path string, now time.Time) error {
	line, _ := encode(Head{}, now, Entry{Event: Init})
	if err := durable.Create(path, line, 0o600); err != nil {
		return fmt.Errorf("creating audit log: %w", err)
	}
	return nil
}

// Open opens the log at path, which must exist, and verifies all of it: some twenty
// seconds for a million lines. must is the head that the store knows; its line
// must be there. What a crash left of an unfinished line is dropped, and the log
// says so: nothing was done on the strength of it.
func Open(path string, must Head, clock func() time.Time) (*Log, error) {
	return OpenAfter(path, must, clock, func(Record) {})
}

// OpenAfter is Open, and visit gets each record after must.
func OpenAfter(path string, must Head, clock func() time.Time, visit func(Record)) (*Log, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("opening audit log: %w", err)
	}
	l, err := open(f, must, clock, visit)
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("opening audit log %s: %w", path, err)
	}
	return l, nil
}

func open(f *os.File, must Head, clock func() time.Time, visit func(Record)) (*Log, error) {
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, fmt.Errorf("locking: another process has it open: %w", err)
	}
	scan, err := Verify(f, must, func(r Record) {
		if r.Sequence > must.Sequence {
			visit(r)
		}
	})
	if err != nil {
		return nil, err
	}
	l := &Log{clock: clock, file: f, size: scan.Size, head: scan.Head}
	if scan.Torn > 0 {
		if err := f.Truncate(scan.Size); err != nil {
			return nil, fmt.Errorf("dropping an unfinished line: %w", err)
		}
		reason := fmt.Sprintf("dropped %d bytes of an unfinished line", scan.Torn)
		if _, err := l.Append(Entry{Event: Recovered, Reason: reason}); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// Append writes entries, with one sync for all of them. When it returns without an
// error they are durable; with an error none of them is in the log, or the log is
// broken, and the error and every later one match ErrBroken.
func (l *Log) Append(entries ...Entry) (Head, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.broken != nil {
		return Head{}, l.broken
	}
	now := l.clock()
	var lines []byte
	head := l.head
	for _, e := range entries {
		if err := e.check(); err != nil { // no server would start with this line
			return Head{}, fmt.Errorf("appending to audit log: %v", err)
		}
		var line []byte
		line, head = encode(head, now, e)
		lines = append(lines, line...)
	}
	if _, err := l.file.Write(lines); err != nil {
		err = fmt.Errorf("appending to audit log: %w", err)
		if undo := l.file.Truncate(l.size); undo != nil {
			l.broken = fmt.Errorf("%w: %v, then %v", ErrBroken, err, undo)
			return Head{}, l.broken
		}
		return Head{}, err
	}
	// After a failed fsync the kernel may have dropped the pages, and a later fsync
	// would say that all is well: so there is no second try.
	if err := l.file.Sync(); err != nil {
		l.broken = fmt.Errorf("%w: syncing: %v", ErrBroken, err)
		return Head{}, l.broken
	}
	l.size += int64(len(lines))
	l.head = head
	return head, nil
}

// Head is the head after the last Append.
func (l *Log) Head() Head {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.head
}

// Close closes the log. Nothing can be appended afterwards.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.broken == nil {
		l.broken = fmt.Errorf("%w: it is closed", ErrBroken)
	}
	return l.file.Close()
}
