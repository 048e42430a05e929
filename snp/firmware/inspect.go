package firmware

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
)

// Answer says whether a way for the host's code is open. Its zero value is Unknown.
type Answer int

// The answers.
const (
	Unknown Answer = iota
	Open
	Closed
)

func (a Answer) String() string {
	switch a {
	case Open:
		return "open"
	case Closed:
		return "closed"
	}
	return "unknown"
}

// Finding is the result for one way.
type Finding struct {
	Way    string
	Answer Answer
	Reason string
}

func (f Finding) String() string { return fmt.Sprintf("%s: %v: %s", f.Way, f.Answer, f.Reason) }

// The ways for a host's code that [Inspect] looks for.
const (
	WayAny      = "any code of the host" // of an image that cannot be taken apart
	WayKernel   = "a kernel that was not measured"
	WayProgram  = "a program before the kernel"
	WayROM      = "option ROMs of devices"
	WayFlash    = "EFI variables from the host's flash"
	WayNvVars   = "EFI variables from a file NvVars on a disk"
	WayUnread   = "sections that cannot be read"
	loaderName  = "QemuKernelLoaderFsDxe"
	programName = "shim"
)

// Judgement is the result for an image.
type Judgement struct {
	Findings []Finding // one for each way, or one of WayAny
}

// Closed reports whether every way is closed.
func (j Judgement) Closed() bool {
	for _, f := range j.Findings {
		if f.Answer != Closed {
			return false
		}
	}
	return len(j.Findings) > 0
}

// Check returns nil if every way is closed, else an error of type *OpenError.
func (j Judgement) Check() error {
	if j.Closed() {
		return nil
	}
	return &OpenError{Judgement: j}
}

// OpenError says that a firmware can run code of its host.
type OpenError struct{ Judgement Judgement }

func (e *OpenError) Error() string {
	var ways []string
	for _, f := range e.Judgement.Findings {
		if f.Answer != Closed {
			ways = append(ways, f.String())
		}
	}
	return "judging firmware: it may run code of the host: " + strings.Join(ways, "; ")
}

// Inspect judges an image. If Inspect cannot take the image apart, the judgement is
// that the image may run anything.
func Inspect(data []byte) Judgement {
	i, err := parse(data)
	if err != nil {
		return unknown(err.Error())
	}
	if len(i.spaces[0].files) == 0 {
		return unknown("the image has no firmware volume with files: it is no build of edk2")
	}
	return i.judge()
}

func unknown(reason string) Judgement {
	return Judgement{Findings: []Finding{{WayAny, Unknown, reason}}}
}

func (i *image) judge() Judgement {
	kernel, rom := i.kernelFinding(), i.romFinding()
	j := Judgement{Findings: []Finding{kernel, i.programFinding(), rom, i.flashFinding(kernel, rom), i.nvVarsFinding()}}
	for _, section := range i.unread {
		j.Findings = append(j.Findings, Finding{WayUnread, Unknown, section})
	}
	return j
}

// module returns the bytes of the file with that GUID; ok is false without one.
func (i *image) module(guid string) (data []byte, ok bool) {
	for _, s := range i.spaces {
		for _, f := range s.files {
			if f.guid == guid {
				return s.data[f.start:f.end], true
			}
		}
	}
	return nil, false
}

// kernelFinding looks for the comparison with the kernel-hashes page
// (BlobVerifierLibSevHashes) in the file that serves the kernel.
func (i *image) kernelFinding() Finding {
	loader, ok := i.module(guidLoader)
	if !ok {
		return Finding{WayKernel, Open, "no " + loaderName + ": the firmware starts what it finds on disks and networks"}
	}
	for _, entry := range []string{guidKernelHash, guidInitrdHash, guidCmdlineHash} {
		if !bytes.Contains(loader, guidBytes(entry)) {
			return Finding{WayKernel, Open, loaderName + " does not know the entries of the kernel-hashes page: it compares nothing"}
		}
	}
	return Finding{WayKernel, Closed, loaderName + " compares kernel, initramfs and command line with the kernel-hashes page"}
}

// path is a device path into the file system of the host's files.
type path struct {
	space *space
	at    int // of the GUID
	name  string
}

func (p path) String() string {
	return fmt.Sprintf("%q in %v at %#x", p.name, p.space.fileOf(p.at), p.at)
}

// Device path nodes (UEFI Specification 2.10, section 10.3.5.3 and 10.3.5.4).
const (
	nodeMedia    = 4
	nodeVendor   = 3
	nodeFilePath = 4
	vendorSize   = 20
)

// paths finds every device path of a file in the kernel loader's file system.
func (i *image) paths() (found []path) {
	node := append([]byte{nodeMedia, nodeVendor, vendorSize, 0}, guidBytes(guidLoaderFS)...)
	for _, s := range i.spaces {
		for _, at := range allIndexes(s.data, node) {
			next := s.data[at+len(node):]
			if len(next) < 4 || next[0] != nodeMedia || next[1] != nodeFilePath {
				continue // the file system itself
			}
			size := min(int(binary.LittleEndian.Uint16(next[2:])), len(next))
			found = append(found, path{space: s, at: at + 4, name: utf16String(next[4:max(size, 4)])})
		}
	}
	return found
}

// programs returns the paths of all files except the verified kernel.
func (i *image) programs() (found []path) {
	for _, p := range i.paths() {
		if p.name != "kernel" {
			found = append(found, p)
		}
	}
	return found
}

func (i *image) programFinding() Finding {
	if found := i.programs(); len(found) > 0 {
		var names []string
		for _, p := range found {
			names = append(names, p.String())
		}
		return Finding{WayProgram, Open, "the host's file " + strings.Join(names, " and ") + " is started before the kernel, and compared with nothing"}
	}
	// The firmware may build a path at run time, so the name alone counts, too.
	for _, s := range i.spaces {
		for _, at := range allIndexes(lower(s.data), utf16Bytes(programName+"\x00")) {
			if f := s.fileOf(at); f.guid != guidLoader && !s.deadPath(at) {
				return Finding{WayProgram, Unknown, fmt.Sprintf("%v has the name %q at %#x, and no device path that would say what for", f, programName, at)}
			}
		}
	}
	if len(i.paths()) == 0 {
		return Finding{WayProgram, Unknown, "no device path of the kernel: the firmware starts it in a way that is not known"}
	}
	return Finding{WayProgram, Closed, "the only device path into the host's files is that of the verified kernel"}
}

// deadPath reports whether the name at offset at is the end of a device path to
// nowhere, as [Harden] writes it.
func (s *space) deadPath(at int) bool {
	node := append([]byte{nodeMedia, nodeVendor, vendorSize, 0}, nowhere[:]...)
	start := at - len(node) - 4
	return start >= 0 && bytes.Equal(s.data[start:start+len(node)], node)
}

// romFinding looks for the check of the guest type in the driver that tells the PCI
// bus whether to read option ROMs. Until edk2-stable202502 every stable release of
// the AmdSev build linked edk2's CcProbeLibNull. That driver has no check, and
// option ROMs run.
func (i *image) romFinding() Finding {
	if _, ok := i.module(guidPCIBus); !ok {
		return Finding{WayROM, Unknown, "no PciBusDxe"}
	}
	policy, ok := i.module(guidPCIPolicy)
	if !ok {
		return Finding{WayROM, Open, "no IncompatiblePciDeviceSupportDxe, which would have PciBusDxe leave them alone"}
	}
	if at, ok := readsGuestType(policy); ok {
		return Finding{WayROM, Closed, fmt.Sprintf("IncompatiblePciDeviceSupportDxe reads the guest type at %#x, and ignores them in a confidential guest", at)}
	}
	return Finding{WayROM, Open, "IncompatiblePciDeviceSupportDxe does not look at the guest type: this build is older than edk2-stable202502"}
}

// readsGuestType looks for an instruction that loads one byte from an absolute
// address on a page boundary in the firmware's fixed memory, where edk2 keeps
// its work area (PcdOvmfWorkAreaBase): mov r8, [disp32] or movzx r32, byte
// [disp32].
func readsGuestType(code []byte) (address uint32, ok bool) {
	const fixedMemory, fixedSize = 0x800000, 0x20000 // OvmfPkg/AmdSev/AmdSevX64.fdf, FD.MEMFD
	for at := 2; at+5 <= len(code); at++ {
		modrm := code[at-1]
		if code[at] != 0x25 || modrm&0xc7 != 0x04 { // SIB without base and index
			continue
		}
		if code[at-2] != 0x8a && (at < 3 || code[at-2] != 0xb6 || code[at-3] != 0x0f) {
			continue
		}
		address = binary.LittleEndian.Uint32(code[at+1:])
		if address%4096 == 0 && address >= fixedMemory && address < fixedMemory+fixedSize {
			return address, true
		}
	}
	return 0, false
}

// flashFinding decides by age. Since edk2 f0d2bc3ab2 of 2024-11-18 the driver of
// the host's flash is off in SNP guests. Only the AmdSev build compares kernels,
// and it has its option ROM policy since 8b87eb9dfb of 2025-01-13; other builds had
// it before. Both changes came with edk2-stable202502.
func (i *image) flashFinding(kernel, rom Finding) Finding {
	_, found := i.module(guidFlash)
	switch {
	case !found:
		return Finding{WayFlash, Closed, "no driver of the host's flash"}
	case kernel.Answer != Closed:
		return Finding{WayFlash, Unknown, "FvbServicesRuntimeDxe is there, and this is no AmdSev build, whose age would say whether it gives way in an SNP guest"}
	case rom.Answer != Closed:
		return Finding{WayFlash, Open, "FvbServicesRuntimeDxe takes the host's flash in an SNP guest: by its option ROM policy this build is older than edk2-stable202502"}
	}
	return Finding{WayFlash, Closed, "FvbServicesRuntimeDxe uses no flash in an SNP guest: by its option ROM policy this build is of edk2-stable202502 or later"}
}

func (i *image) nvVarsFinding() Finding {
	for _, s := range i.spaces {
		if at := bytes.Index(s.data, utf16Bytes("NvVars\x00")); at >= 0 {
			return Finding{WayNvVars, Open, fmt.Sprintf("%v has the file's name at %#x", s.fileOf(at), at)}
		}
	}
	return Finding{WayNvVars, Closed, "no file has its name"}
}

func allIndexes(data, pattern []byte) (found []int) {
	for from := 0; ; {
		n := bytes.Index(data[from:], pattern)
		if n < 0 {
			return found
		}
		found = append(found, from+n)
		from += n + 1
	}
}

// lower returns data with ASCII capitals as small letters, byte for byte.
func lower(data []byte) []byte {
	out := bytes.Clone(data)
	for i, b := range out {
		if 'A' <= b && b <= 'Z' {
			out[i] = b + 'a' - 'A'
		}
	}
	return out
}
