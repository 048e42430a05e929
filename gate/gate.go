// Package gate makes the EFI application that is measured in the kernel's place.
//
// The application carries the kernel. It replaces the host's ACPI tables by tables of its
// own, removes the host's EFI tables, and then starts the kernel. docs/spec/gate.md
// describes every byte.
package gate

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/rootvouch/rootvouch/gate/program"
	"github.com/rootvouch/rootvouch/pins"
)

// MaxKernel bounds the kernel that a gate carries, in bytes.
const MaxKernel = 512 << 20

// MaxFile bounds a gate with its kernel, in bytes.
const MaxFile = MaxKernel + 1<<20

// Errors of Open: the file is not a gate, or it is a gate that this version does not
// make.
var (
	ErrBare  = errors.New("the kernel is not behind the gate: it runs ACPI code of its host")
	ErrOther = errors.New("the kernel is behind a gate that this version of rootvouch does not make")
)

// Marker is in the application's DOS header, at MarkerAt.
const (
	Marker   = "rootvouch gate\x00"
	MarkerAt = 0x10
)

// ID names the gate of this version. It does not depend on the kernel in the gate.
func ID() pins.Digest { return program.ID() }

// Is reports whether a file has the marker of a gate. It needs the first 64 bytes.
func Is(file []byte) bool {
	return len(file) >= MarkerAt+len(Marker) && string(file[:2]) == "MZ" && string(file[MarkerAt:MarkerAt+len(Marker)]) == Marker
}

// Build returns the gate that carries a kernel. The same kernel gives the same
// bytes on every machine.
func Build(kernel []byte) ([]byte, error) {
	if Is(kernel) {
		return nil, errors.New("making a gate: the kernel is a gate already")
	}
	if err := checkKernel(kernel); err != nil {
		return nil, fmt.Errorf("making a gate: %w", err)
	}
	before := beforeKernel(kernel)
	file := make([]byte, align(len(before)+len(kernel)))
	copy(file, before)
	copy(file[len(before):], kernel)
	return file, nil
}

// beforeKernel returns the bytes of a gate before its kernel, in whole pages.
func beforeKernel(kernel []byte) []byte {
	code := program.Code()
	kernelAt := align(program.DataAt + len(program.Data(0, 0)))
	data := program.Data(uint64(kernelAt), uint64(len(kernel)))
	before := make([]byte, kernelAt)
	copy(before, headers(kernel, len(code), len(data), kernelAt))
	copy(before[program.CodeAt:], code)
	copy(before[program.DataAt:], data)
	return before
}

// Open returns the kernel that a gate carries, a part of file. It accepts what Build
// returns, and nothing else: another file is ErrBare, another gate ErrOther.
func Open(file []byte) (kernel []byte, err error) {
	if !Is(file) {
		return nil, ErrBare
	}
	if len(file) < program.DataAt+16 || len(file)%pageSize != 0 {
		return nil, fmt.Errorf("%w: the file has %d bytes, want whole pages of %d", ErrOther, len(file), pageSize)
	}
	at := binary.LittleEndian.Uint64(file[program.DataAt:])
	size := binary.LittleEndian.Uint64(file[program.DataAt+8:])
	if at > uint64(len(file)) || size > uint64(len(file))-at {
		return nil, fmt.Errorf("%w: the kernel has %d bytes at %d, and the file %d", ErrOther, size, at, len(file))
	}
	kernel = file[at : at+size]
	if err := checkKernel(kernel); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrOther, err)
	}
	before, end := beforeKernel(kernel), file[at+size:]
	if uint64(len(before)) != at || !bytes.Equal(before, file[:at]) || len(end) >= pageSize || len(bytes.Trim(end, "\x00")) > 0 {
		return nil, ErrOther
	}
	return kernel, nil
}
