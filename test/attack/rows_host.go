package attack

const (
	inFirmware = "firmware"
	inLaunch   = "launch"
	inTables   = "ACPI, SMBIOS, fw_cfg"
	inDevices  = "devices, CPU, interrupts"
	inDisk     = "disk"
)

func firmware() []Row {
	const program = "A program that the host hands to the firmware does not run before the kernel"
	const judged = "A firmware that may run code of its host, or that cannot be judged, gets no digest"
	const hardened = "Hardening a firmware changes only the device path of the host's program"
	return []Row{
		{ID: "firmware-program-control", Input: inFirmware, Attack: "a program of the host in fw_cfg, stock firmware", Expected: "it runs before the kernel: the control, so that the next row can fail", Claim: program, Shown: "platform.TestVMHostProgram/stock"},
		{ID: "firmware-program", Input: inFirmware, Attack: "a program of the host in fw_cfg, hardened firmware", Expected: "it does not run; the kernel starts", Claim: program, Shown: "platform.TestVMHostProgram/hardened"},
		{ID: "firmware-program-chain", Input: inFirmware, Attack: "the same against the whole chain", Expected: "it does not run; the VM boots and attests; no secret on console or wire", Claim: program, Shown: "test/e2e.TestHostCredentials"},
		{ID: "firmware-open", Input: inFirmware, Attack: "owner is given a firmware with that path, by any name, in any file", Expected: "judged open, with the path's place", Claim: judged, Shown: "snp/firmware.TestInspect"},
		{ID: "firmware-unknown", Input: inFirmware, Attack: "owner is given a firmware that cannot be taken apart: SVSM, damaged, another compression", Expected: "judged unknown, which counts as open", Claim: judged, Shown: "snp/firmware.TestInspectUnknown"},
		{ID: "firmware-refused", Input: inFirmware, Attack: "stock firmware to measure, vm run and refval new", Expected: "each refuses, and names the flag that accepts", Claim: judged, Shown: "cmd/rootvouch.TestScripts/firmware"},
		{ID: "firmware-noted", Input: inFirmware, Attack: "reference values that accept such a firmware", Expected: "each verdict has a note", Claim: judged, Shown: "appraise.TestHostCodeNote"},
		{ID: "firmware-rom-old", Input: inFirmware, Attack: "a build whose option ROM policy is the empty one", Expected: "judged open; hardening refuses it", Claim: judged, Shown: "snp/firmware.TestHardenRefuses"},
		{ID: "firmware-hardened-twice", Input: inFirmware, Attack: "hardening that changes more than the path, or differs by machine", Expected: "only the path's GUID and checksums differ; hardening twice gives the same bytes", Claim: hardened, Shown: "snp/firmware.TestHarden"},
		{ID: "firmware-stream", Input: inFirmware, Attack: "malformed LZMA section", Expected: "refused with its place; nothing beyond the bound is allocated", Claim: judged, Shown: "snp/firmware/lzma.TestDecodeRefuses"},
		{ID: "firmware-metadata", Input: inFirmware, Attack: "hostile SEV metadata and GUIDed table", Expected: "refused with its offset", Claim: "Hostile firmware metadata is refused, with its offset", Shown: "snp/launch.TestParseFirmwareRefusals"},
		{ID: "firmware-other-file", Input: inFirmware, Attack: "firmware file exchanged between measuring and launch", Expected: "QEMU gets the sealed bytes that were measured", Claim: "QEMU gets exactly the firmware that was measured", Shown: "platform.TestMemoryIsSealed"},
		{ID: "firmware-rom-snp", Input: inFirmware, Attack: "option ROM of a host's device, in an SNP guest", Expected: "ignored", Claim: "What the firmware reads from the host before the kernel starts", Hardware: "emulated guests are not confidential, so the firmware's policy does not apply"},
		{ID: "firmware-flash-snp", Input: inFirmware, Attack: "EFI variables in a flash device of the host's, in an SNP guest", Expected: "not used", Claim: "What the firmware reads from the host before the kernel starts", Hardware: "the firmware decides by the guest type"},
	}
}

func launch() []Row {
	const bytes = "A changed kernel, initramfs or command line does not start"
	const covers = "The launch digest covers kernel, initramfs and command line"
	return []Row{
		{ID: "launch-kernel", Input: inLaunch, Attack: "another kernel than measured: one flipped bit", Expected: "the firmware stops without a message; the launcher ends the VM", Claim: bytes, Shown: "platform.TestVMFirmwareRefuses/one_flipped_bit_in_the_kernel"},
		{ID: "launch-initramfs", Input: inLaunch, Attack: "one more byte on the initramfs", Expected: "the firmware stops without a message", Claim: bytes, Shown: "platform.TestVMFirmwareRefuses/one_more_byte_on_the_initramfs"},
		{ID: "launch-command-line", Input: inLaunch, Attack: "another command line than measured", Expected: "the firmware stops without a message", Claim: bytes, Shown: "platform.TestVMFirmwareRefuses/one_more_word_on_the_command_line"},
		{ID: "launch-line-more", Input: inLaunch, Attack: "a word more on the kernel's command line than in boot.json", Expected: "refused before the network", Claim: "The kernel has exactly the measured command line", Shown: "boot.TestVM/more_on_the_command_line"},
		{ID: "launch-line-cut", Input: inLaunch, Attack: "a command line that firmware or EFI stub cut", Expected: "refused before the network", Claim: "The kernel has exactly the measured command line", Shown: "boot.TestVM/less_on_the_command_line"},
		{ID: "launch-chain", Input: inLaunch, Attack: "other bytes than measured, against the whole chain", Expected: "no kernel starts", Claim: bytes, Shown: "test/e2e.TestOtherBytesThanMeasured"},
		{ID: "launch-measurement", Input: inLaunch, Attack: "a launch with another measurement, honestly reported", Expected: "no identity, no key, powered off", Claim: "A VM with another measurement gets no identity and no key", Shown: "test/e2e.TestOtherMeasurement"},
		{ID: "launch-hashes", Input: inLaunch, Attack: "firmware that cannot check a kernel, with a kernel", Expected: "no digest", Claim: covers, Shown: "snp/launch.TestHashesPageRefusals"},
		{ID: "launch-id-block", Input: inLaunch, Attack: "one changed bit in an ID block", Expected: "refused", Claim: "One changed bit in an ID block is refused", Shown: "snp/launch/idblock.TestParseRefusals"},
		{ID: "launch-id-block-snp", Input: inLaunch, Attack: "launch with another digest than the ID block's", Expected: "the AMD-SP refuses the launch", Claim: covers, Hardware: "the AMD-SP decides"},
		{ID: "launch-qcow2", Input: inLaunch, Attack: "a qcow2 whose backing file is the host's, as raw disk", Expected: "refused before the launch", Claim: "Availability", Shown: "platform.TestCheckFiles"},
		{ID: "launch-orphan", Input: inLaunch, Attack: "the launcher is killed while the VM runs", Expected: "QEMU ends with it", Claim: "QEMU does not outlive its launcher", Shown: "platform.TestProcessDoesNotOutliveUs"},
		{ID: "launch-panic", Input: inLaunch, Attack: "kernel panic", Expected: "reset, which ends the VM", Claim: "A kernel panic ends the VM", Shown: "platform.TestVMKernelPanicEndsIt"},
	}
}

func tables() []Row {
	return []Row{
		{ID: "smbios-credentials", Input: inTables, Attack: "systemd credentials through SMBIOS", Expected: "nothing starts in the booted system", Claim: "Credentials that the host puts into SMBIOS start nothing in the booted system", Shown: "test/e2e.TestHostCredentials"},
		{ID: "smbios-environment", Input: inTables, Attack: "systemd options and credentials from firmware", Expected: "systemd starts with an empty credentials directory and no EFI variables", Claim: "systemd starts with a credentials directory that is set and empty", Shown: "boot.TestInitEnvironment"},
		{ID: "acpi-gate-control", Input: inTables, Attack: "an SSDT that writes to memory, a FADT whose register blocks are memory, and a bare kernel", Expected: "the kernel is changed: the control, so that the next row can fail", Claim: "Bytecode in the host's ACPI tables, and a FADT that names memory as a register", Shown: "gate.TestVM/both_attacks,_bare_kernel"},
		{ID: "acpi-gate", Input: inTables, Attack: "the same, and the kernel behind the gate", Expected: "the kernel is as measured", Claim: "Bytecode in the host's ACPI tables, and a FADT that names memory as a register", Shown: "gate.TestVM/both_attacks,_gate"},
		{ID: "acpi-gate-newer", Input: inTables, Attack: "tables of the host's, and a kernel 7.x behind the gate", Expected: "it has the gate's tables", Claim: "The gate removes every EFI configuration table except the four that it lists", Shown: "gate.TestVMBackports"},
		{ID: "acpi-machine", Input: inTables, Attack: "a machine that the gate was not made for", Expected: "refused, powered off", Claim: "The gate starts a kernel on the machine that it was made for", Shown: "gate.TestVMRefuses/another_machine"},
		{ID: "acpi-kernel", Input: inTables, Attack: "a kernel that does not load, inside the gate's file", Expected: "refused, powered off", Claim: "The gate starts a kernel on the machine that it was made for", Shown: "gate.TestVMRefuses/a_kernel_that_does_not_load"},
		{ID: "acpi-root-bridge", Input: inTables, Attack: "a second PCI root bridge", Expected: "refused by the gate, powered off", Claim: "The gate starts a kernel on the machine that it was made for", Shown: "gate.TestVM/a_second_root_bridge"},
		{ID: "acpi-pid1", Input: inTables, Attack: "tables that are not the gate's, seen by PID 1", Expected: "refused: tables, before the agent starts", Claim: "PID 1 powers off if the kernel shows an ACPI or EFI table that is not the gate's", Shown: "boot/tables.TestCheckRefuses"},
		{ID: "efi-tables", Input: inTables, Attack: "EFI configuration tables of the host's: SMBIOS, TPM log, unknown ones", Expected: "gone, except the four that the gate lists", Claim: "The gate removes every EFI configuration table except the four that it lists", Shown: "gate/program.TestProgramConfiguration"},
		{ID: "smbios-machine-id", Input: inTables, Attack: "machine ID through the SMBIOS UUID", Expected: "PID 1 writes a random one", Claim: "If the image has no machine ID, PID 1 writes a random one, so the host cannot choose it", Shown: "boot.TestWriteMachineID"},
		{ID: "acpi-shapes", Input: inTables, Attack: "CPU counts, bridges and devices that need what tables say", Expected: "the gated kernel boots", Claim: "ACPI", Shown: "gate.TestVMMachines"},
	}
}

func devices() []Row {
	const crypto = "If the host hides AES-NI or RDRAND, the boot ends"
	return []Row{
		{ID: "cpu-no-aes", Input: inDevices, Attack: "CPU without AES-NI", Expected: "refused: start", Claim: crypto, Shown: "boot.TestVM/no_AES-NI"},
		{ID: "cpu-no-rdrand", Input: inDevices, Attack: "CPU without RDRAND", Expected: "refused: start", Claim: crypto, Shown: "boot.TestVM/no_RDRAND"},
		{ID: "cpu-lied", Input: inDevices, Attack: "CPU flags that lack either on one of several processors", Expected: "refused", Claim: crypto, Shown: "boot.TestCheckProcessors"},
		{ID: "late-devices", Input: inDevices, Attack: "a second disk and devices of the host's, at start and later", Expected: "the disk is gone at the hand-over, no driver binds, no module loads", Claim: "After the switch a disk that the host added is detached, a virtio device that the host adds gets no driver, and no module is loaded", Shown: "boot.TestVM/good"},
		{ID: "late-devices-newer", Input: inDevices, Attack: "the same with a kernel 7.x in several packages", Expected: "the same", Claim: "After the switch a disk that the host added is detached, a virtio device that the host adds gets no driver, and no module is loaded", Shown: "boot.TestVM/good,_the_kernel_of_the_backports_in_its_packages"},
		{ID: "kernel-settings", Input: inDevices, Attack: "a kernel on which a setting that hides secrets is not in force", Expected: "refused: kernel", Claim: "Each kernel setting that hides secrets is read back from /proc and /sys", Shown: "boot/kernel.TestEnforce"},
		{ID: "exception-snp", Input: inDevices, Attack: "#VC and int 0x80 injected by the host", Expected: "handled or ignored by the guest kernel", Claim: "Memory corruption in the guest kernel", Hardware: "QEMU's TCG injects neither"},
		{ID: "side-channel-snp", Input: inDevices, Attack: "single-stepping, ciphertext side channels, RAPL", Expected: "as the owner's policy bits require of the host", Claim: "Side channels", Hardware: "only an SNP host can be measured"},
	}
}

func disk() []Row {
	const flipped = "A flipped bit in the filesystem, the hash tree, the dm-verity superblock or the LUKS2 header ends the boot"
	const step = "A wrong root hash, superblock, key or pin ends the boot at the step that checks it"
	const after = "After the switch, changed data, a changed tree and reads that fail end the VM"
	const header = "A forged LUKS2 header is refused before use"
	vm := func(id, attack, expected, claim, sub string) Row {
		return Row{ID: id, Input: inDisk, Attack: attack, Expected: expected, Claim: claim, Shown: "boot.TestVM/" + sub}
	}
	return []Row{
		vm("disk-data", "one bit of the filesystem", "refused: verify", flipped, "data_byte"),
		vm("disk-tree", "one bit of the hash tree", "refused: verify", flipped, "tree_byte"),
		vm("disk-superblock", "one bit of the dm-verity superblock", "refused: dm-verity", flipped, "superblock_byte"),
		vm("disk-header", "one bit of the LUKS2 header region", "refused: header", flipped, "header_byte"),
		vm("disk-twin", "another disk with the same UUID", "refused: header", "Another disk with the same UUID is not opened", "other_disk_with_the_same_UUID"),
		vm("disk-none", "no disk", "refused: header", step, "no_disk"),
		vm("disk-short", "a disk that is cut", "refused: header", step, "short_disk"),
		vm("disk-key", "a key that does not open the disk", "refused: dm-crypt", step, "wrong_key"),
		vm("disk-pin", "a released pin that is not the measured one", "refused: key", step, "other_header_pin"),
		vm("disk-pin-unmeasured", "a released pin of another disk, none measured", "refused: header", step, "other_header_pin,_none_measured"),
		vm("disk-root-hash", "another root hash than the tree's", "refused: verify", step, "other_root_hash"),
		vm("disk-root-hash-lazy", "the same with lazy verification", "refused or panic at the first read", step, "lazy,_other_root_hash"),
		vm("disk-salt", "another salt in the superblock", "refused: dm-verity", step, "other_salt"),
		vm("disk-no-init", "a root without an init", "refused: switch", step, "no_init_in_the_root"),
		vm("disk-after-data", "data changed under the running VM", "kernel panic, reset", after, "corruption_after_the_switch"),
		vm("disk-after-tree", "hash tree changed under the running VM", "kernel panic, reset", after, "corruption_of_the_tree_after_the_switch"),
		vm("disk-after-errors", "reads that fail under the running VM", "kernel panic, reset", after, "failing_reads_after_the_switch"),
		{ID: "disk-chain", Input: inDisk, Attack: "each region of the disk, against the whole chain", Expected: "refused at its step, after the key was released", Claim: flipped, Shown: "test/e2e.TestChangedDisk"},
		{ID: "disk-chain-twin", Input: inDisk, Attack: "another disk with the same UUID, against the whole chain", Expected: "refused: header", Claim: "Another disk with the same UUID is not opened", Shown: "test/e2e.TestOtherDiskWithSameUUID"},
		{ID: "disk-chain-secrets", Input: inDisk, Attack: "a good boot, with console and packets kept", Expected: "no disk key, volume key or known file, in any usual form", Claim: "no key is on any console, in any form", Shown: "test/e2e.TestHostCredentials"},
		{ID: "disk-headers", Input: inDisk, Attack: "forged LUKS2 headers: null cipher, other segments, weak digest", Expected: "refused before use", Claim: header, Shown: "luks2.TestHostileHeaders"},
		{ID: "disk-header-fields", Input: inDisk, Attack: "each field of the LUKS2 header changed alone", Expected: "refused", Claim: header, Shown: "luks2.TestSingleFieldMutations"},
		{ID: "disk-header-bytes", Input: inDisk, Attack: "each binary field of the LUKS2 header changed alone", Expected: "refused", Claim: header, Shown: "luks2.TestBinaryMutations"},
		{ID: "disk-plaintext", Input: inDisk, Attack: "a superblock whose decryption would be shown in an error", Expected: "the error holds no decrypted byte", Claim: "PID 1 prints no decrypted bytes of the disk", Shown: "boot/disk.TestCheckSuperblock"},
	}
}
