package uki

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"regexp"
)

// version is how a kernel names itself in its setup header: release, then who built it.
var version = regexp.MustCompile(`^([a-z0-9._+-]+) \([^ )]+\) #`)

// kernelVersion reads the release of a bzImage (Documentation/arch/x86/boot.rst:
// kernel_version, at 0x20e, is relative to 0x200).
func kernelVersion(kernel []byte) (string, error) {
	if len(kernel) < 0x210 || string(kernel[0x202:0x206]) != "HdrS" {
		return "", errors.New("the kernel is no Linux bzImage: it has no setup header")
	}
	at := 0x200 + int(binary.LittleEndian.Uint16(kernel[0x20e:]))
	if at >= len(kernel) {
		return "", fmt.Errorf("the kernel's version is at %#x, behind its end", at)
	}
	text, _, _ := bytes.Cut(kernel[at:min(at+128, len(kernel))], []byte{0})
	found := version.FindSubmatch(text)
	if found == nil {
		return "", fmt.Errorf("the kernel's version is %q, want RELEASE (BUILDER) #…", text)
	}
	return string(found[1]), nil
}
