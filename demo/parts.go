package demo

import (
	"fmt"
	"os"
	"path/filepath"
)

// Parts are the files from which the demo makes a chain. They are stock parts or
// built by `make`.
type Parts struct {
	Rootvouch    string // the owner's tool
	KMS          string // rootvouch-kms
	ServerPlugin string // snp-server-plugin
	GuestBin     string // directory of the guest's programs

	SPIREServer string
	SPIREAgent  string
	KernelTree  string // an unpacked kernel package
	Kernel      string // its bzImage
	Firmware    string // AmdSev OVMF, hardened
	Root        string // tar of a Debian root
}

// FindParts looks for all parts in the directories of `make` and scripts/setup. Its
// error names the missing parts.
func FindParts(bin, cache string) (Parts, error) {
	p := Parts{
		Rootvouch:    filepath.Join(bin, "rootvouch"),
		KMS:          filepath.Join(bin, "rootvouch-kms"),
		ServerPlugin: filepath.Join(bin, "snp-server-plugin"),
		GuestBin:     filepath.Join(bin, "guest"),
		SPIREServer:  filepath.Join(cache, "spire/1.13.3/spire-server"),
		SPIREAgent:   filepath.Join(cache, "spire/1.13.3/spire-agent"),
		KernelTree:   filepath.Join(cache, "kernel"),
		Firmware:     filepath.Join(cache, "firmware/hardened/OVMF.amdsev.fd"),
		Root:         filepath.Join(cache, "root/debian-trixie.tar"),
	}
	kernels, err := filepath.Glob(filepath.Join(p.KernelTree, "boot/vmlinuz-*"))
	if err != nil {
		return Parts{}, err
	}
	if len(kernels) != 1 {
		return Parts{}, &MissingError{filepath.Join(p.KernelTree, "boot/vmlinuz-*")}
	}
	p.Kernel = kernels[0]
	for _, path := range []string{p.Rootvouch, p.KMS, p.ServerPlugin, filepath.Join(p.GuestBin, "init"),
		filepath.Join(p.GuestBin, "spire-agent"), p.SPIREServer, p.SPIREAgent, p.Firmware, p.Root} {
		if _, err := os.Stat(path); err != nil {
			return Parts{}, &MissingError{path}
		}
	}
	return p, nil
}

// CacheDir returns the directory for the parts that scripts/setup fetches and
// builds.
func CacheDir() (string, error) {
	if dir := os.Getenv("ROOTVOUCH_CACHE"); dir != "" {
		return dir, nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "rootvouch"), nil
}

// MissingError is the error for a missing part.
type MissingError struct{ Path string }

func (e *MissingError) Error() string { return fmt.Sprintf("looking for %s: not found", e.Path) }

// Hint says which command makes the part.
func (e *MissingError) Hint() string {
	return "scripts/setup and make build make it; make demo calls both"
}
