// Package aml writes ACPI Machine Language that holds only data: names, integers,
// buffers, packages, scopes and devices. It cannot write a method or an operation
// region, so the interpreter reads its output and never runs it.
//
// Section numbers are those of the ACPI specification 6.5.
package aml

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// A Term is an encoded object of a term list: a name, a scope or a device.
type Term []byte

// Data is an encoded data object.
type Data []byte

// The opcodes (20.3). There are no others in this package.
const (
	opZero       = 0x00
	opOne        = 0x01
	opName       = 0x08
	opByte       = 0x0a
	opWord       = 0x0b
	opDWord      = 0x0c
	opQWord      = 0x0e
	opScope      = 0x10
	opBuffer     = 0x11
	opPackage    = 0x12
	opExtension  = 0x5b
	opExtDevice  = 0x82
	rootPrefix   = '\\'
	maxPkgLength = 1<<28 - 1
)

// Integer encodes a number in its shortest form.
func Integer(n uint64) Data {
	switch {
	case n == 0:
		return Data{opZero}
	case n == 1:
		return Data{opOne}
	case n <= 0xff:
		return Data{opByte, byte(n)}
	case n <= 0xffff:
		return binary.LittleEndian.AppendUint16(Data{opWord}, uint16(n))
	case n <= 0xffffffff:
		return binary.LittleEndian.AppendUint32(Data{opDWord}, uint32(n))
	}
	return binary.LittleEndian.AppendUint64(Data{opQWord}, n)
}

// EISAID encodes an identifier such as "PNP0A08" as an integer for _HID (19.6.36).
// It panics at another form.
func EISAID(id string) Data {
	var vendor, product uint32
	var letters string
	if n, err := fmt.Sscanf(id, "%3s%04X", &letters, &product); n != 2 || err != nil || len(id) != 7 {
		panic(fmt.Sprintf("aml: internal error: EISA ID is %q, want three letters and four hex digits", id))
	}
	for _, c := range letters {
		if c < 'A' || c > 'Z' {
			panic(fmt.Sprintf("aml: internal error: EISA ID is %q, want capital letters", id))
		}
		vendor = vendor<<5 | uint32(c-'A'+1)
	}
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], vendor<<16|product)
	return binary.LittleEndian.AppendUint32(Data{opDWord}, binary.LittleEndian.Uint32(b[:]))
}

// Buffer encodes bytes.
func Buffer(b []byte) Data {
	return Data(block([]byte{opBuffer}, append(Integer(uint64(len(b))), b...)))
}

// Package encodes a list of at most 255 objects.
func Package(elements ...Data) Data {
	if len(elements) > 255 {
		panic(fmt.Sprintf("aml: internal error: package has %d elements, want at most 255", len(elements)))
	}
	body := []byte{byte(len(elements))}
	for _, e := range elements {
		body = append(body, e...)
	}
	return Data(block([]byte{opPackage}, body))
}

// Name gives data a name.
func Name(name string, value Data) Term {
	return append(append(Term{opName}, nameString(name)...), value...)
}

// Scope adds terms to an existing scope.
func Scope(name string, terms ...Term) Term {
	return Term(block([]byte{opScope}, named(name, terms)))
}

// Device makes a device of terms.
func Device(name string, terms ...Term) Term {
	return Term(block([]byte{opExtension, opExtDevice}, named(name, terms)))
}

// TermList joins terms: the body of a definition block.
func TermList(terms ...Term) []byte {
	var b []byte
	for _, t := range terms {
		b = append(b, t...)
	}
	return b
}

func named(name string, terms []Term) []byte {
	return append(nameString(name), TermList(terms...)...)
}

// nameString encodes one segment of up to four characters, with or without the
// root prefix (20.2.2).
func nameString(name string) []byte {
	segment, rooted := strings.CutPrefix(name, string(rootPrefix))
	if len(segment) < 1 || len(segment) > 4 {
		panic(fmt.Sprintf("aml: internal error: name is %q, want one segment of up to 4 characters", name))
	}
	for i, c := range segment {
		if c != '_' && (c < 'A' || c > 'Z') && (i == 0 || c < '0' || c > '9') {
			panic(fmt.Sprintf("aml: internal error: name is %q, want capital letters, digits and underscores", name))
		}
	}
	segment += "____"[len(segment):]
	if rooted {
		return append([]byte{rootPrefix}, segment...)
	}
	return []byte(segment)
}

// block encodes opcode, package length and body. The length includes its own bytes
// (20.2.4).
func block(opcode, body []byte) []byte {
	return append(append(opcode, pkgLength(len(body))...), body...)
}

// pkgLength encodes a length up to 63 in one byte, and a larger one in two to four
// bytes. The first byte then holds the number of bytes that follow (bits 7:6) and
// the low four bits of the length.
func pkgLength(body int) []byte {
	if body+1 <= 0x3f {
		return []byte{byte(body + 1)}
	}
	for follow := 1; follow <= 3; follow++ {
		n := body + 1 + follow
		if n > maxPkgLength || n>>(4+8*follow) != 0 {
			continue
		}
		b := []byte{byte(follow)<<6 | byte(n&0xf)}
		for i := range follow {
			b = append(b, byte(n>>(4+8*i)))
		}
		return b
	}
	panic(fmt.Sprintf("aml: internal error: body has %d bytes, want less than 2^28", body))
}
