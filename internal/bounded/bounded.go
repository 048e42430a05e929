// Package bounded reads inputs that have a size limit.
//
// An input over its limit is an error: it is never silently truncated.
package bounded

import (
	"errors"
	"fmt"
	"io"
	"os"
)

// ErrTooLarge is matched by the errors about inputs that are over their limit.
var ErrTooLarge = errors.New("too large")

// tooLarge keeps the limit, so that a message reads as one sentence.
type tooLarge struct {
	what  string
	limit int64
}

func (e tooLarge) Error() string {
	return fmt.Sprintf("%s has more than %d bytes", e.what, e.limit)
}

func (e tooLarge) Is(target error) bool { return target == ErrTooLarge }

// Read returns all bytes of r, at most limit. If there are more, the error matches ErrTooLarge.
func Read(r io.Reader, limit int64) ([]byte, error) { return read("the input", r, limit) }

// ReadFile returns all bytes of a file, at most limit. If there are more, the error matches
// ErrTooLarge.
func ReadFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return read(path, f, limit)
}

func read(what string, r io.Reader, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, tooLarge{what, limit}
	}
	return data, nil
}
