package launch_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/rootvouch/rootvouch/internal/needs"
	"github.com/rootvouch/rootvouch/snp/launch"
)

// TestInteropSevSNPMeasure compares digests with sev-snp-measure, when it is
// installed, for the firmware and kernel that the emulated platform boots.
func TestInteropSevSNPMeasure(t *testing.T) {
	peer, err := exec.LookPath("sev-snp-measure")
	if err != nil {
		t.Skip("SKIPPED: sev-snp-measure is not on PATH")
	}
	firmware, kernel := needs.Part(t, "firmware/usr/share/ovmf/OVMF.amdsev.fd"), needs.Part(t, "kernel/boot/vmlinuz-*")
	image, err := os.ReadFile(firmware)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := launch.ParseFirmware(image)
	if err != nil {
		t.Fatal(err)
	}
	kernelImage, err := os.ReadFile(kernel)
	if err != nil {
		t.Fatal(err)
	}
	hashes, err := launch.HashKernel(bytes.NewReader(kernelImage), nil, "console=ttyS0")
	if err != nil {
		t.Fatal(err)
	}
	for mode, peerMode := range map[launch.Mode]string{launch.SNP: "snp", launch.SEVES: "seves", launch.SEV: "sev"} {
		for vmm, peerVMM := range map[launch.VMM]string{launch.QEMU: "QEMU", launch.EC2: "ec2", launch.GCE: "gce"} {
			for vcpus, cpu := range map[int]string{1: "EPYC-v4", 3: "EPYC-Turin"} {
				out, err := exec.Command(peer, "--mode", peerMode, "--vmm-type", peerVMM, "--vcpus", fmt.Sprint(vcpus), "--vcpu-type", cpu,
					"--ovmf", firmware, "--kernel", kernel, "--append", "console=ttyS0").Output()
				if err != nil {
					t.Fatalf("running sev-snp-measure: %v", err)
				}
				in := launch.Inputs{
					Mode: mode, Firmware: parsed, Hashes: &hashes, VCPUs: vcpus,
					VCPU: launch.VCPU{VMM: vmm, VMSA: launch.CurrentVMSA, CPU: mustCPU(t, cpu), Features: 1},
				}
				got, err := launch.Compute(in)
				if want := strings.TrimSpace(string(out)); err != nil || got.String() != want {
					t.Errorf("%v %v %d %s: got %v, %v, want %s", mode, vmm, vcpus, cpu, got, err, want)
				}
			}
		}
	}
}
