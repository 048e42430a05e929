// Package firmware judges whether a firmware image can run unmeasured programs, and
// closes the ways that it knows.
//
// The launch digest covers the firmware's bytes, and through the kernel-hashes
// page the kernel, the initramfs and the command line. It does not cover data that
// the firmware takes from its host while it runs. If those data include a program,
// the digest vouches for nothing.
//
// [Inspect] takes the image apart: firmware volumes, files, sections, and the
// LZMA section in which edk2 keeps most of them. It looks for the known ways and
// reports for each whether it is open, with the reason. It does not read machine
// code in general, so "closed" means: closed in the form that edk2 uses. A part
// that Inspect cannot read counts as open.
//
// [Harden] changes the bytes of the device path of the optional program before
// the kernel, so that the path leads nowhere. The result depends on the image
// alone. docs/firmware.md lists images that were judged.
//
// Sources: UEFI Platform Initialization Specification 1.8, volume 3; UEFI
// Specification 2.10, section 10.3; edk2 at edk2-stable202502 and c5aa7e7d94.
package firmware
