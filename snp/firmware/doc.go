// Package firmware judges whether a firmware image can run unmeasured programs of its
// host, and makes a copy of an image that does not run such a program.
//
// The launch digest covers the firmware's bytes, and through the kernel-hashes page the
// kernel, the initramfs and the command line. The digest does not cover data that the
// firmware takes from its host while it runs. If the firmware runs a program of the host,
// that program can change everything that starts later, and the digest proves nothing.
//
// [Inspect] takes the image apart: firmware volumes, files, sections, and the LZMA section
// in which edk2 keeps most files. Inspect looks for each known way to run such a program,
// and reports whether the way is open, with the reason. Inspect does not analyse machine
// code in general, so "closed" means: closed in the form that edk2 uses. A part that
// Inspect cannot read counts as open.
//
// The stock firmware can run an optional program before the kernel. [Harden] changes the
// device path of this program so that the firmware finds no program there. The result
// depends on the image alone. docs/firmware.md lists the images that were judged.
//
// Sources: UEFI Platform Initialization Specification 1.8, volume 3; UEFI
// Specification 2.10, section 10.3; edk2 at edk2-stable202502 and c5aa7e7d94.
package firmware
