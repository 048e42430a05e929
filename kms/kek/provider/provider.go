// Package provider implements a program that keeps a key-encryption key for the key server.
//
// The program reads requests from its standard input, one after the other, and answers on its
// standard output. docs/spec/kek.md describes the protocol.
package provider

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// The bytes of the protocol.
const (
	Greeting = "rootvouch-kek 1\n"

	OpSeal = 's'
	OpOpen = 'o'

	StatusDone   = 0
	StatusWrong  = 1 // the key or the associated data differ, or the seal was changed
	StatusFailed = 2 // the failure may pass; the text gives the reason

	// MaxPart bounds each part of a message in bytes.
	MaxPart = 64 << 10
)

// ErrWrong says that a seal can never be opened: the key or the associated data differ, or the
// seal was changed.
var ErrWrong = errors.New("sealed under another key, for something else, or changed")

// Keeper seals and opens secrets. Each error except ErrWrong may pass.
type Keeper interface {
	Seal(secret, about []byte) ([]byte, error)
	Open(sealed, about []byte) ([]byte, error)
}

// Serve answers requests until in ends.
func Serve(in io.Reader, out io.Writer, k Keeper) error {
	if _, err := io.WriteString(out, Greeting); err != nil {
		return err
	}
	for r := bufio.NewReaderSize(in, 1024); ; {
		op, err := r.ReadByte()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading a request: %w", err)
		}
		about, err := part(r)
		if err != nil {
			return fmt.Errorf("reading a request: %w", err)
		}
		data, err := part(r)
		if err != nil {
			return fmt.Errorf("reading a request: %w", err)
		}
		reply := answer(k, op, data, about)
		_, err = out.Write(reply)
		clear(data)
		clear(reply)
		if err != nil {
			return fmt.Errorf("answering: %w", err)
		}
	}
}

func part(r io.Reader) ([]byte, error) {
	var size [4]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(size[:])
	if n > MaxPart {
		return nil, fmt.Errorf("a part has %d bytes, want at most %d", n, MaxPart)
	}
	data := make([]byte, n)
	_, err := io.ReadFull(r, data)
	return data, err
}

func answer(k Keeper, op byte, data, about []byte) []byte {
	var result []byte
	var err error
	switch op {
	case OpSeal:
		result, err = k.Seal(data, about)
	case OpOpen:
		result, err = k.Open(data, about)
	default:
		err = fmt.Errorf("request is %q, want %q or %q", op, OpSeal, OpOpen)
	}
	status := byte(StatusDone)
	switch {
	case errors.Is(err, ErrWrong):
		status, result = StatusWrong, nil
	case err != nil:
		status, result = StatusFailed, []byte(fmt.Sprintf("%.500s", err))
	case len(result) > MaxPart:
		status, result = StatusFailed, []byte("the result is too long")
	}
	reply := append(make([]byte, 0, 5+len(result)), status)
	reply = binary.BigEndian.AppendUint32(reply, uint32(len(result)))
	reply = append(reply, result...)
	if status == StatusDone {
		clear(result)
	}
	return reply
}
