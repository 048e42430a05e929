package launch_test

import (
	"bytes"
	"os"
	"testing"

	"github.com/rootvouch/rootvouch/internal/needs"
	"github.com/rootvouch/rootvouch/snp/launch"
)

// benchInputs are the firmware and the kernel that the emulated platform boots.
func benchInputs(b *testing.B) (firmware, kernel []byte, in launch.Inputs) {
	b.Helper()
	read := func(pattern string) []byte {
		data, err := os.ReadFile(needs.Part(b, pattern))
		if err != nil {
			b.Fatal(err)
		}
		return data
	}
	firmware, kernel = read("firmware/usr/share/ovmf/OVMF.amdsev.fd"), read("kernel/boot/vmlinuz-*")
	f, err := launch.ParseFirmware(firmware)
	if err != nil {
		b.Fatal(err)
	}
	return firmware, kernel, launch.Inputs{
		Mode: launch.SNP, Firmware: f, Hashes: mustHashes(b, kernel, nil, "console=ttyS0"), VCPUs: 4,
		VCPU: launch.VCPU{VMM: launch.QEMU, VMSA: launch.CurrentVMSA, CPU: mustCPU(b, "EPYC-v4"), Features: 1},
	}
}

// BenchmarkDigest is one digest from bytes in memory, kernel hashed each time.
func BenchmarkDigest(b *testing.B) {
	firmware, kernel, in := benchInputs(b)
	b.SetBytes(int64(len(firmware) + len(kernel)))
	for b.Loop() {
		f, err := launch.ParseFirmware(firmware)
		if err != nil {
			b.Fatal(err)
		}
		h, err := launch.HashKernel(bytes.NewReader(kernel), nil, "console=ttyS0")
		if err != nil {
			b.Fatal(err)
		}
		in.Firmware, in.Hashes = f, &h
		if _, err := launch.Digest(in); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkMatrix is 1 to 64 vCPUs times all CPU types: the bar is 1 s.
func BenchmarkMatrix(b *testing.B) {
	_, _, in := benchInputs(b)
	var counts []int
	for n := 1; n <= 64; n++ {
		counts = append(counts, n)
	}
	types := launch.CPUTypes()
	for b.Loop() {
		entries, err := launch.Matrix(in, counts, types)
		if err != nil || len(entries) != len(counts)*len(types) {
			b.Fatalf("got %d digests, %v", len(entries), err)
		}
	}
	b.ReportMetric(float64(len(counts)*len(types)), "digests/op")
}

// BenchmarkVCPU is one more vCPU in a chain.
func BenchmarkVCPU(b *testing.B) {
	_, _, in := benchInputs(b)
	base, err := in.Base()
	if err != nil {
		b.Fatal(err)
	}
	prefix, err := base.Prefix(in.VMM, in.Hashes)
	if err != nil {
		b.Fatal(err)
	}
	vmsas, err := base.VMSAs(in.VCPU)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		digests, err := prefix.Digests(vmsas, 1000)
		if err != nil {
			b.Fatal(err)
		}
		for range digests {
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1000, "ns/vCPU")
}
