// Package gate makes the EFI application that is measured in the kernel's place:
// a program that replaces the host's ACPI and EFI tables by constants, and starts
// the kernel that it carries. docs/spec/gate.md has every byte.
package gate

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/rootvouch/rootvouch/gate/program"
	"github.com/rootvouch/rootvouch/pins"
)

// MaxKernel bounds the kernel that a gate carries, in bytes.
const MaxKernel = 512 << 20

// ErrOther is what Open returns of a gate that this version does not make.
var ErrOther = errors.New("it is a gate, but not one that this version of rootvouch makes of its kernel")

// Marker is in the application's DOS header, at MarkerAt.
const (
	Marker   = "rootvouch gate\x00"
	MarkerAt = 0x10
)

// ID names the gate of this version, whatever kernel it carries.
func ID() pins.Digest { return program.ID() }

// Is reports whether a file says that it is a gate. It needs the first 64 bytes.
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
	code := program.Code()
	kernelAt := align(program.DataAt + len(program.Data(0, 0)))
	data := program.Data(uint64(kernelAt), uint64(len(kernel)))
	file := make([]byte, align(kernelAt+len(kernel)))
	copy(file, headers(kernel, len(code), len(data), kernelAt))
	copy(file[program.CodeAt:], code)
	copy(file[program.DataAt:], data)
	copy(file[kernelAt:], kernel)
	return file, nil
}

// Open returns the kernel that a gate carries. It accepts what Build returns, and
// nothing else: another gate is ErrOther.
func Open(file []byte) (kernel []byte, err error) {
	if !Is(file) {
		return nil, errors.New("opening a gate: the file is none")
	}
	if len(file) < program.DataAt+16 || len(file)%pageSize != 0 {
		return nil, fmt.Errorf("opening a gate: the file has %d bytes, want whole pages of %d", len(file), pageSize)
	}
	at := binary.LittleEndian.Uint64(file[program.DataAt:])
	size := binary.LittleEndian.Uint64(file[program.DataAt+8:])
	if at > uint64(len(file)) || size > uint64(len(file))-at {
		return nil, fmt.Errorf("opening a gate: its kernel has %d bytes at %d, and the file %d", size, at, len(file))
	}
	kernel = file[at : at+size]
	again, err := Build(kernel)
	if err != nil {
		return nil, fmt.Errorf("opening a gate: %w: %v", ErrOther, err)
	}
	if !bytes.Equal(again, file) {
		return nil, fmt.Errorf("opening a gate: %w", ErrOther)
	}
	return kernel, nil
}

// Sniff reports whether r holds a gate. What it read is gone.
func Sniff(r io.Reader) (bool, error) {
	var first [64]byte
	n, err := io.ReadFull(r, first[:])
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return false, err
	}
	return Is(first[:n]), nil
}
