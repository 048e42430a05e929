package explain_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"strings"
	"testing"

	"github.com/rootvouch/rootvouch/snp/launch"
	"github.com/rootvouch/rootvouch/snp/launch/explain"
	"github.com/rootvouch/rootvouch/test/firmwaretest"
)

const commandLine = "console=ttyS0 root=/dev/vda quiet"

func mustFirmware(t testing.TB, image firmwaretest.Image) *launch.Firmware {
	t.Helper()
	f, err := launch.ParseFirmware(image.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func mustCPU(t testing.TB, name string) launch.CPU {
	t.Helper()
	c, err := launch.LookupCPU(name)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func mustHashes(t testing.TB, kernel, initrd, commandLine string) *launch.Hashes {
	t.Helper()
	h, err := launch.HashKernel(strings.NewReader(kernel), strings.NewReader(initrd), commandLine)
	if err != nil {
		t.Fatal(err)
	}
	return &h
}

// expected returns the inputs that the owner expects.
func expected(t testing.TB, mode launch.Mode) launch.Inputs {
	t.Helper()
	in := launch.Inputs{
		Mode: mode, Firmware: mustFirmware(t, firmwaretest.AmdSev()), VCPUs: 4,
		Hashes: mustHashes(t, "kernel", "initramfs", commandLine),
		VCPU:   launch.VCPU{VMM: launch.QEMU, VMSA: launch.CurrentVMSA, CPU: mustCPU(t, "EPYC-v4"), Features: 1},
	}
	if mode == launch.SNPSVSM {
		in.Hashes, in.VarsSize = nil, 540672
		in.Firmware, in.SVSM = mustFirmware(t, firmwaretest.OVMF()), mustFirmware(t, firmwaretest.SVSM())
	}
	return in
}

func search(t testing.TB, q explain.Question) explain.Answer {
	t.Helper()
	a, err := explain.Search(context.Background(), q)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// TestSearch changes inputs and expects the change to be named.
func TestSearch(t *testing.T) {
	hashes := func(change func(h *launch.Hashes)) func(in *launch.Inputs) {
		return func(in *launch.Inputs) {
			h := *in.Hashes
			change(&h)
			in.Hashes = &h
		}
	}
	line := func(s string) func(in *launch.Inputs) {
		return hashes(func(h *launch.Hashes) { h.CommandLine = sha256.Sum256([]byte(s)) })
	}
	all := func(changes ...func(in *launch.Inputs)) func(in *launch.Inputs) {
		return func(in *launch.Inputs) {
			for _, c := range changes {
				c(in)
			}
		}
	}
	vcpus := func(in *launch.Inputs) { in.VCPUs = 37 }
	genoa := func(in *launch.Inputs) { in.CPU = mustCPU(t, "EPYC-Genoa") }
	gce := func(in *launch.Inputs) { in.VMM = launch.GCE }
	features := func(in *launch.Inputs) { in.Features = 0x21 }
	off := func(in *launch.Inputs) { in.Hashes = nil }
	for _, c := range []struct {
		name   string
		mode   launch.Mode
		change func(in *launch.Inputs)
		want   string // words of the one explanation, joined by |
	}{
		{"nothing", launch.SNP, all(), "no difference"},
		{"vCPUs", launch.SNP, vcpus, "explained by 1 |vCPUs: 37, not 4"},
		{"CPU type", launch.SNP, genoa, "explained by 1 |CPU type: EPYC-Genoa"},
		{"real CPU", launch.SNP, func(in *launch.Inputs) { in.CPU = launch.CPUFromSignature(0xaa0f02) }, "explained by 1 |0xaa0f02, as \"-cpu host\""},
		{"unnamed CPU and vCPUs", launch.SNP, func(in *launch.Inputs) { in.CPU, in.VCPUs = launch.CPUFromSignature(0xb40f41), 16 }, "explained by 2 |CPU type: signature 0xb40f41|vCPUs: 16, not 4"},
		{"launcher", launch.SNP, gce, "explained by 1 |launcher: gce, not qemu"},
		{"older VMSA", launch.SNP, func(in *launch.Inputs) { in.VMSA = launch.PreLinux610 }, "explained by 1 |qemu with the pre-6.10 VMSA"},
		{"guest features", launch.SNP, features, "explained by 1 |guest features: 0x21 (SNPActive, DebugVirtualization)"},
		{"many guest features", launch.SNP, func(in *launch.Inputs) { in.Features = 0x1c081 }, "explained by 1 |0x1c081 (SNPActive, BTBIsolation"},
		{"kernel hashes off", launch.SNP, off, "explained by 1 |kernel: no kernel hashes"},
		{"no initramfs", launch.SNP, hashes(func(h *launch.Hashes) { h.Initrd = sha256.Sum256(nil) }), "explained by 1 |initramfs: none"},
		{"other kernel", launch.SNP, hashes(func(h *launch.Hashes) { h.Kernel = sha256.Sum256([]byte("other")) }), "explained by 1 |kernel: vmlinuz.old"},
		{"other initramfs", launch.SNP, hashes(func(h *launch.Hashes) { h.Initrd = sha256.Sum256([]byte("other")) }), "explained by 1 |initramfs: initrd.old"},
		{"no NUL", launch.SNP, line(commandLine), "explained by 1 |without its trailing NUL"},
		{"newline", launch.SNP, line(commandLine + "\n\x00"), `explained by 1 |quiet\n", not`},
		{"word added", launch.SNP, line(commandLine + " console=hvc0\x00"), "explained by 1 |quiet console=hvc0"},
		{"word removed", launch.SNP, line("console=ttyS0 quiet\x00"), `explained by 1 |command line: "console=ttyS0 quiet"`},
		{"vCPUs and CPU type", launch.SNP, all(vcpus, genoa), "explained by 2 |CPU type: EPYC-Genoa|vCPUs: 37"},
		{"vCPUs and command line", launch.SNP, all(vcpus, line("\x00")), `explained by 2 |command line: ""|vCPUs: 37`},
		{"features and hashes", launch.SNP, all(features, off), "explained by 2 |kernel: no kernel|guest features: 0x21"},
		{"three changes", launch.SNP, all(features, off, vcpus), "not explained"},
		{"SEV-ES", launch.SEVES, all(vcpus, genoa), "explained by 2 |CPU type: EPYC-Genoa|vCPUs: 37"},
		{"SEV", launch.SEV, line("\x00"), `explained by 1 |command line: ""`},
		{"SVSM", launch.SNPSVSM, all(vcpus, genoa), "explained by 2 |CPU type: EPYC-Genoa|vCPUs: 37"},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := expected(t, c.mode)
			c.change(&in)
			got, err := launch.Compute(in)
			if err != nil {
				t.Fatal(err)
			}
			a := search(t, explain.Question{
				Got: got, Inputs: expected(t, c.mode), CommandLine: commandLine,
				Kernels: []explain.Blob{{Name: "vmlinuz.old", SHA256: sha256.Sum256([]byte("other"))}},
				Initrds: []explain.Blob{{Name: "initrd.old", SHA256: sha256.Sum256([]byte("other"))}},
			})
			if len(a.Explanations) > 1 {
				t.Errorf("got %d explanations, want at most 1:\n%v", len(a.Explanations), a)
			}
			for word := range strings.SplitSeq(c.want, "|") {
				if !strings.Contains(a.String(), word) {
					t.Errorf("got %q, want %q", a, word)
				}
			}
		})
	}
}

func TestSearchFirmware(t *testing.T) {
	q := explain.Question{Inputs: expected(t, launch.SNP), CommandLine: commandLine}
	q.Inputs.Hashes = nil
	in := q.Inputs
	in.Firmware = mustFirmware(t, firmwaretest.OVMF())
	in.VCPUs = 2
	var err error
	if q.Got, err = launch.Compute(in); err != nil {
		t.Fatal(err)
	}
	none, err := launch.ParseFirmware(bytes.Repeat([]byte{0xff}, launch.PageSize))
	if err != nil {
		t.Fatal(err)
	}
	q.Firmware = []explain.Firmware{{Name: "junk", Firmware: none}, {Name: "OVMF.fd", Firmware: in.Firmware}}
	a := search(t, q)
	want := []explain.Change{{Input: "firmware", Got: "OVMF.fd", Want: "the given file"}, {Input: "vCPUs", Got: "2", Want: "4"}}
	if len(a.Explanations) != 1 || len(a.Explanations[0]) != 2 || a.Explanations[0][0] != want[0] || a.Explanations[0][1] != want[1] {
		t.Errorf("got %v, want %v", a.Explanations, want)
	}
	if len(a.Unusable) != 1 || !strings.Contains(a.Unusable[0], "junk") {
		t.Errorf("got unusable candidates %q, want junk", a.Unusable)
	}
}

func TestSearchRefusals(t *testing.T) {
	in := expected(t, launch.SNP)
	short, err := launch.ParseSum(strings.Repeat("00", 32))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := explain.Search(context.Background(), explain.Question{Got: short, Inputs: in}); err == nil || !strings.Contains(err.Error(), "want 48") {
		t.Errorf("digest of another mode: got %v", err)
	}
	long, err := launch.ParseSum(strings.Repeat("00", 48))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := explain.Search(ctx, explain.Question{Got: long, Inputs: in}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: got %v", err)
	}
	in.VCPUs = 0
	if _, err := explain.Search(context.Background(), explain.Question{Got: long, Inputs: in}); err == nil {
		t.Error("impossible inputs: got no error")
	}
}

// BenchmarkSearch is a search that finds nothing, in candidates per second.
func BenchmarkSearch(b *testing.B) {
	got, err := launch.ParseSum(strings.Repeat("00", 48))
	if err != nil {
		b.Fatal(err)
	}
	q := explain.Question{Got: got, Inputs: expected(b, launch.SNP), CommandLine: commandLine}
	var tried int
	for b.Loop() {
		tried += search(b, q).Tried
	}
	b.ReportMetric(float64(tried)/b.Elapsed().Seconds(), "candidates/s")
	b.ReportMetric(float64(tried)/float64(b.N), "candidates/op")
}
