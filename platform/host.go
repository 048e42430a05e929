package platform

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// DefaultQEMU is the name of the program that is looked for in PATH.
const DefaultQEMU = "qemu-system-x86_64"

// qemuVersion is major and minor.
type qemuVersion [2]int

func (v qemuVersion) String() string { return fmt.Sprintf("%d.%d", v[0], v[1]) }

func (v qemuVersion) less(w qemuVersion) bool {
	return v[0] < w[0] || v[0] == w[0] && v[1] < w[1]
}

// neededVersion is the oldest QEMU that can launch a kind of guest, and why.
func neededVersion(k Kind) (qemuVersion, string) {
	if k == SNP {
		return qemuVersion{9, 1}, "the first with sev-snp-guest"
	}
	return qemuVersion{10, 0}, "older ones rewrite the kernel's header, and the firmware refuses it"
}

// checkQEMU asks a QEMU for its version.
func checkQEMU(ctx context.Context, program string, k Kind) error {
	out, err := exec.CommandContext(ctx, program, "--version").Output()
	if err != nil {
		return fmt.Errorf("asking QEMU for its version: %w", err)
	}
	v, err := parseVersion(string(out))
	if err != nil {
		return err
	}
	if want, why := neededVersion(k); v.less(want) {
		return fmt.Errorf("%s is version %v, want %v or newer (%s)", program, v, want, why)
	}
	return nil
}

// parseVersion reads "QEMU emulator version 10.0.2 (…)".
func parseVersion(s string) (qemuVersion, error) {
	first, _, _ := strings.Cut(s, "\n")
	_, rest, ok := strings.Cut(first, " version ")
	var v qemuVersion
	if n, err := fmt.Sscanf(rest, "%d.%d", &v[0], &v[1]); !ok || n != 2 || err != nil {
		return v, fmt.Errorf("reading QEMU's version: got %q", first)
	}
	return v, nil
}

// checkHost says all that a host lacks for a kind of guest, its QEMU included. root
// is "/" but in tests.
func checkHost(ctx context.Context, root, qemu string, k Kind) error {
	version := checkQEMU(ctx, qemu, k)
	if k != SNP {
		return version
	}
	errs := []error{version}
	for _, d := range []struct{ path, hint string }{
		{"dev/kvm", "load kvm_amd, and switch virtualisation on in the firmware setup"},
		{"dev/sev", "load ccp on a processor with SEV-SNP (EPYC Milan or newer)"},
	} {
		f, err := os.OpenFile(filepath.Join(root, d.path), os.O_RDWR, 0)
		if err == nil {
			f.Close()
			continue
		}
		var path *os.PathError
		if errors.As(err, &path) {
			err = path.Err
		}
		errs = append(errs, fmt.Errorf("/%s: %v (%s)", d.path, err, d.hint))
	}
	const parameter = "sys/module/kvm_amd/parameters/sev_snp"
	switch value, err := os.ReadFile(filepath.Join(root, parameter)); {
	case err != nil:
		errs = append(errs, fmt.Errorf("/%s: it is missing (a host kernel of 6.11 or newer with kvm_amd has it)", parameter))
	case strings.TrimSpace(string(value)) != "Y":
		errs = append(errs, fmt.Errorf("/%s is %q, want \"Y\" (switch SEV-SNP on in the firmware setup, and the IOMMU)", parameter, strings.TrimSpace(string(value))))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("this host cannot launch SEV-SNP guests:\n%w", err)
	}
	return nil
}
