package launch_test

import (
	"fmt"
	"strings"

	"github.com/rootvouch/rootvouch/snp/launch"
	"github.com/rootvouch/rootvouch/test/firmwaretest"
)

// The launch digest of a guest with two vCPUs, from its firmware, kernel,
// initramfs and command line.
func ExampleDigest() {
	firmware, err := launch.ParseFirmware(firmwaretest.AmdSev().Bytes())
	if err != nil {
		panic(err)
	}
	hashes, err := launch.HashKernel(strings.NewReader("kernel"), strings.NewReader("initramfs"), "console=ttyS0")
	if err != nil {
		panic(err)
	}
	cpu, err := launch.LookupCPU("EPYC-v4")
	if err != nil {
		panic(err)
	}
	digest, err := launch.Digest(launch.Inputs{
		Mode: launch.SNP, Firmware: firmware, Hashes: &hashes, VCPUs: 2,
		VCPU: launch.VCPU{VMM: launch.QEMU, VMSA: launch.CurrentVMSA, CPU: cpu, Features: 1},
	})
	if err != nil {
		panic(err)
	}
	fmt.Println(digest)
	// Output: c992c38e2907225e7eee6710c496caa3b588c5cbf1bc3c6e52f793d2e47842b0030f943a8cff1dc909fa2ce4fc43e04d
}
