// Package snp encodes and decodes the structures that AMD's secure processor
// (AMD-SP) defines for SEV-SNP guests: attestation reports, guest messages,
// the certificate table, and the extensions of endorsement key certificates.
//
// The package is pure: it takes bytes and returns bytes. It does not judge reports.
// [Report.Verify] only reports whether one key signed one report. Package appraise
// decides which key must have signed, and what the report must say.
//
// Documents cited, by AMD's number:
//
//   - 56860: SEV Secure Nested Paging Firmware ABI Specification, revision 1.58
//   - 56421: SEV-ES Guest-Hypervisor Communication Block Standardization, revision 2.04
//   - 57230: Versioned Chip Endorsement Key (VCEK) Certificate and KDS
//     Interface Specification, revision 1.00
//
// Comments cite structures by name, with section and table number where one was found.
// docs/spec/launch-digest.md says how the numbers were checked. The numbers for 56421
// and 57230 were not checked.
//
// Offsets are in hexadecimal, as in these documents. Every integer is little-endian,
// including the components of a signature.
package snp
