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

// DefaultQEMU is the name of the QEMU program, which is looked up in PATH.
const DefaultQEMU = "qemu-system-x86_64"

// qemuVersion is major and minor.
type qemuVersion [2]int

func (v qemuVersion) String() string { return fmt.Sprintf("%d.%d", v[0], v[1]) }

func (v qemuVersion) less(w qemuVersion) bool {
	return v[0] < w[0] || v[0] == w[0] && v[1] < w[1]
}

// neededVersion returns the oldest QEMU that can launch a kind of guest, and the
// reason.
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

// Finding is one requirement that a host meets or fails.
type Finding struct {
	What   string // the requirement
	Err    error  // why the host fails it; nil if the host meets it
	Advice string // what to do if the host fails it
}

// CheckHost checks everything that a host needs to launch a kind of guest, QEMU
// included.
func CheckHost(ctx context.Context, qemu string, k Kind) []Finding {
	if qemu == "" {
		qemu = DefaultQEMU
	}
	return inspectHost(ctx, "/", qemu, k)
}

// inspectHost is CheckHost with a root directory, which is "/" except in tests.
func inspectHost(ctx context.Context, root, qemu string, k Kind) []Finding {
	want, why := neededVersion(k)
	findings := []Finding{{"QEMU", checkQEMU(ctx, qemu, k), fmt.Sprintf("install QEMU %v or newer, %s, or name it with --qemu", want, why)}}
	if k != SNP {
		return findings
	}
	for _, d := range []struct{ path, advice string }{
		{"dev/kvm", "load kvm_amd, switch virtualisation on in the firmware setup, and let the user who runs QEMU read and write it"},
		{"dev/sev", "load ccp on a processor with SEV-SNP (EPYC Milan or newer), and let the user who runs QEMU read and write it"},
	} {
		findings = append(findings, Finding{"/" + d.path, checkDevice(root, d.path), d.advice})
	}
	return append(findings, Finding{"/" + snpParameter, checkParameter(root),
		"take a host kernel of 6.11 or newer with kvm_amd, and switch SEV-SNP, its memory table (RMP) and the IOMMU on in the firmware setup"})
}

func checkDevice(root, path string) error {
	f, err := os.OpenFile(filepath.Join(root, path), os.O_RDWR, 0)
	if err == nil {
		return f.Close()
	}
	if cause, ok := errors.AsType[*os.PathError](err); ok {
		return cause.Err
	}
	return err
}

// snpParameter is the file that shows whether kvm_amd can launch SEV-SNP guests.
const snpParameter = "sys/module/kvm_amd/parameters/sev_snp"

func checkParameter(root string) error {
	value, err := os.ReadFile(filepath.Join(root, snpParameter))
	if err != nil {
		return errors.New("it is missing")
	}
	if got := strings.TrimSpace(string(value)); got != "Y" {
		return fmt.Errorf("it is %q, want \"Y\"", got)
	}
	return nil
}

// checkHost returns an error that lists everything that a host lacks for a kind of
// guest. root is "/" except in tests.
func checkHost(ctx context.Context, root, qemu string, k Kind) error {
	var errs []error
	for _, f := range inspectHost(ctx, root, qemu, k) {
		if f.Err != nil {
			errs = append(errs, fmt.Errorf("%s: %w (%s)", f.What, f.Err, f.Advice))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("this host cannot launch %s guests:\n%w", map[Kind]string{SNP: "SEV-SNP", Emulated: "emulated"}[k], err)
	}
	return nil
}
