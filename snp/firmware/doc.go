// Package firmware judges whether a firmware image runs programs that nobody
// measured, and closes the ways that it can.
//
// The launch digest covers the firmware's bytes, and through the kernel-hashes
// page the kernel, the initramfs and the command line. It does not cover what
// the firmware takes from its host while it runs. If that includes a program,
// the digest vouches for nothing.
//
// [Inspect] takes the image apart: firmware volumes, files, sections, and the
// LZMA section in which edk2 keeps most of them. It looks for the ways that are
// known and says for each whether it is open, with the reason. It does not read
// machine code in general, so "closed" means: closed as edk2 closes it.
// Whatever it cannot read counts as open.
//
// [Harden] changes the bytes of the device path of the optional program before
// the kernel, so that the path leads nowhere. The result depends on the image
// alone. docs/firmware.md lists images that were judged.
//
// Sources: UEFI Platform Initialization Specification 1.8, volume 3; UEFI
// Specification 2.10, section 10.3; edk2 at edk2-stable202502 and c5aa7e7d94.
package firmware
