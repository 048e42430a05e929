// Package snp encodes and decodes the structures that AMD's secure processor
// (AMD-SP) defines for SEV-SNP guests: attestation reports, guest messages,
// the certificate table, and the extensions of endorsement key certificates.
//
// The package is pure: it takes bytes and returns bytes, and holds no opinion
// on whether a report should be believed. [Report.Verify] says only whether one
// key signed one report; which key that must be, and what the report must say,
// is the business of package appraise.
//
// Documents cited, by AMD's number:
//
//   - 56860: SEV Secure Nested Paging Firmware ABI Specification, revision 1.58
//   - 56421: SEV-ES Guest-Hypervisor Communication Block Standardization, revision 2.04
//   - 57230: Versioned Chip Endorsement Key (VCEK) Certificate and KDS
//     Interface Specification, revision 1.00
//
// Structures are cited by name, with section and table number where one was
// found; docs/spec/launch-digest.md says how the numbers were checked. Those of
// 56421 and 57230 were not.
//
// Offsets are printed in hexadecimal, as these documents do. Every integer is
// little-endian, the components of a signature included.
package snp
