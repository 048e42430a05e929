// Package snp encodes and decodes the structures that AMD's secure processor
// (AMD-SP) defines for SEV-SNP guests: attestation reports, guest messages,
// the certificate table, and the extensions of endorsement key certificates.
//
// The package uses no files, network or clock. It does not judge reports:
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
// Comments cite a structure by its name in these documents, and by section and table
// number if the number is known. docs/spec/launch-digest.md says how the numbers of 56860
// were checked. Nobody has checked the numbers of 56421 and 57230.
//
// Offsets are in hexadecimal, as in these documents. Every integer is little-endian,
// including the components of a signature.
package snp
