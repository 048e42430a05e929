// Package launch computes the launch digest of an SEV guest: the number that
// the AMD-SP puts into MEASUREMENT of an attestation report.
//
// The digest is a chain over everything that is in guest memory before the first
// instruction runs, in the order in which the launcher hands it to the AMD-SP. The chain
// covers the firmware, the pages that the firmware's metadata asks for (including the
// hashes of kernel, initramfs and command line), and one VMSA for each vCPU.
// docs/spec/launch-digest.md has the offset tables and the order.
//
// The package takes bytes and hashes, never paths. The caller hashes kernel, initramfs and
// command line once (see HashKernel). A Prefix is the part of the digest before the VMSAs, so
// the digests for all vCPU counts and CPU types can share one Prefix.
//
// Documents cited in this package:
//
//	56860  SEV Secure Nested Paging Firmware ABI Specification, revision 1.58
//	55766  Secure Encrypted Virtualization API, revision 3.24
//	24593  AMD64 Architecture Programmer's Manual, Volume 2, revision 3.44
//	25481  CPUID Specification, revision 2.34
//
// Section and table numbers are those of these revisions;
// docs/spec/launch-digest.md says how they were checked.
//
// AMD's documents leave some choices to the launcher. The sources for these choices are:
//
//   - OVMF: OvmfPkg/ResetVector of edk2-stable202405
//   - QEMU: target/i386/sev.c of 10.0
//   - KVM: arch/x86/kvm/svm of Linux 6.12
//   - EC2 and GCE: guest.py and vmsa.py of sev-snp-measure
package launch
