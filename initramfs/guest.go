package initramfs

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"

	"github.com/rootvouch/rootvouch/boot/bootconfig"
)

// GuestBinaries lists the programs of the initramfs by their paths in it. The
// directory Options.GuestBin has them under their base names.
func GuestBinaries() []string {
	return []string{bootconfig.InitPath, bootconfig.AgentPath, bootconfig.AgentPluginPath,
		bootconfig.FetchkeyPath, bootconfig.AttestdPath}
}

// readGuestBinary reads one program of the guest and checks that the kernel alone
// can start it.
func readGuestBinary(dir, guestPath string) ([]byte, error) {
	name := filepath.Join(dir, path.Base(guestPath))
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("reading guest binary: %w", err)
	}
	if err := checkStatic(data); err != nil {
		return nil, fmt.Errorf("checking guest binary %s: %v", name, err)
	}
	return data, nil
}

// checkStatic accepts a statically linked program for x86-64, because the initramfs
// has neither a loader nor libraries.
func checkStatic(data []byte) error {
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return err
	}
	if f.Class != elf.ELFCLASS64 || f.Machine != elf.EM_X86_64 {
		return fmt.Errorf("ELF file is %v for %v, want %v for %v", f.Class, f.Machine, elf.ELFCLASS64, elf.EM_X86_64)
	}
	if (f.Type != elf.ET_EXEC && f.Type != elf.ET_DYN) || f.Entry == 0 {
		return fmt.Errorf("ELF file is %v with entry %#x, want a program", f.Type, f.Entry)
	}
	loads := 0
	for _, p := range f.Progs {
		switch p.Type {
		case elf.PT_INTERP:
			return errors.New("program is dynamically linked (it has PT_INTERP), want a static one: build with CGO_ENABLED=0")
		case elf.PT_LOAD:
			loads++
		}
	}
	if loads == 0 {
		return errors.New("program has no PT_LOAD segment")
	}
	libraries, err := f.ImportedLibraries()
	if err != nil {
		return fmt.Errorf("reading dynamic section: %v", err)
	}
	if len(libraries) != 0 {
		return fmt.Errorf("program needs the libraries %q, want a static one: build with CGO_ENABLED=0", libraries)
	}
	return nil
}
