package vmtest

import (
	"bytes"
	"debug/pe"
	"encoding/binary"
	"path/filepath"
	"testing"
)

// EFIProgram writes an EFI program that prints a line on the firmware's console and
// powers off. It stands for a program that a host wants to run in the guest before
// the kernel.
func EFIProgram(t testing.TB, line string) string {
	t.Helper()
	return mustWrite(t, filepath.Join(t.TempDir(), "program.efi"), efiImage(efiCode(line)))
}

// efiCode returns the program's code. It is position-independent, and is entered
// with the system table in RDX (UEFI Specification 2.10, sections 2.3.4.2, 4.3 and
// 12.4.3).
func efiCode(line string) []byte {
	code := []byte{
		0x53,                   // push rbx: the stack is aligned now
		0x48, 0x83, 0xec, 0x20, // sub rsp, 32: room for the callee
		0x48, 0x89, 0xd3, // mov rbx, rdx
		0x48, 0x8b, 0x4b, 0x40, // mov rcx, [rbx+0x40]: ConOut
		0x48, 0x8d, 0x15, 0x16, 0, 0, 0, // lea rdx, [rip+22]: the text
		0xff, 0x51, 0x08, // call [rcx+8]: OutputString
		0x48, 0x8b, 0x43, 0x58, // mov rax, [rbx+0x58]: RuntimeServices
		0xb9, 2, 0, 0, 0, // mov ecx, 2: EfiResetShutdown
		0x31, 0xd2, // xor edx, edx: EFI_SUCCESS
		0x45, 0x31, 0xc0, // xor r8d, r8d: no data
		0x45, 0x31, 0xc9, // xor r9d, r9d
		0xff, 0x50, 0x68, // call [rax+0x68]: ResetSystem
	}
	binary.LittleEndian.PutUint32(code[15:], uint32(len(code)-19))
	for _, r := range "\r\n" + line + "\r\n\x00" {
		code = binary.LittleEndian.AppendUint16(code, uint16(r))
	}
	return code
}

// efiImage wraps code in a PE32+ image with one section (Microsoft PE Format,
// 2024-03; UEFI Specification 2.10, section 2.1.1).
func efiImage(code []byte) []byte {
	const fileAlignment, sectionAlignment, start = 0x200, 0x1000, 0x1000
	raw := (len(code) + fileAlignment - 1) / fileAlignment * fileAlignment
	header := pe.FileHeader{Machine: pe.IMAGE_FILE_MACHINE_AMD64, NumberOfSections: 1,
		Characteristics:      pe.IMAGE_FILE_EXECUTABLE_IMAGE | pe.IMAGE_FILE_LARGE_ADDRESS_AWARE,
		SizeOfOptionalHeader: uint16(binary.Size(pe.OptionalHeader64{}))}
	optional := pe.OptionalHeader64{Magic: 0x20b, SizeOfCode: uint32(raw), AddressOfEntryPoint: start, BaseOfCode: start,
		SectionAlignment: sectionAlignment, FileAlignment: fileAlignment,
		SizeOfImage: start + uint32((raw+sectionAlignment-1)/sectionAlignment*sectionAlignment), SizeOfHeaders: fileAlignment,
		Subsystem: pe.IMAGE_SUBSYSTEM_EFI_APPLICATION, NumberOfRvaAndSizes: 16}
	section := pe.SectionHeader32{Name: [8]uint8{'.', 't', 'e', 'x', 't'}, VirtualSize: uint32(len(code)), VirtualAddress: start,
		SizeOfRawData: uint32(raw), PointerToRawData: fileAlignment,
		Characteristics: pe.IMAGE_SCN_CNT_CODE | pe.IMAGE_SCN_MEM_EXECUTE | pe.IMAGE_SCN_MEM_READ}
	var out bytes.Buffer
	dos := make([]byte, 64)
	copy(dos, "MZ")
	binary.LittleEndian.PutUint32(dos[60:], uint32(len(dos)))
	out.Write(dos)
	out.WriteString("PE\x00\x00")
	for _, part := range []any{header, optional, section} {
		if err := binary.Write(&out, binary.LittleEndian, part); err != nil {
			panic(err)
		}
	}
	out.Write(make([]byte, fileAlignment-out.Len()))
	out.Write(code)
	out.Write(make([]byte, raw-len(code)))
	return out.Bytes()
}
