package attack

// Attacks of a host on the machine: on the firmware's input, on devices that it
// plugs, pulls and changes while the VM runs, and on the kernel.

const (
	inClock  = "clock"
	inLabels = "what the image names by label"
	late     = "After the switch a disk that the host added is detached, a virtio device that the host adds gets no driver, and no module is loaded"
)

// shownBy returns a maker of rows whose tests are subtests of one.
func shownBy(test, input, claim string) func(id, attack, expected, sub string) Row {
	return func(id, attack, expected, sub string) Row {
		return Row{ID: id, Input: input, Attack: attack, Expected: expected, Claim: claim, Shown: test + "/" + sub}
	}
}

func firmwareInput() []Row {
	row := shownBy("gate.TestVMFirmwareInput", inFirmware, "If the host gives the firmware malformed input, only the kernel behind the gate starts, or no kernel")
	const expected = "no kernel, a refusal of the gate, or the kernel behind the gate with its tables"
	return []Row{
		row("firmware-loader-outside", "a script that places tables outside of every file", expected, "a_script_of_tables_that_points_outside"),
		row("firmware-loader-noise", "a script for tables of random bytes", expected, "a_script_of_tables_of_random_bytes"),
		row("firmware-bridges", "a huge number of root bridges in fw_cfg", expected, "a_huge_number_of_root_bridges"),
		row("firmware-window", "a size of the PCI window that is not a number", expected, "a_window_that_is_no_number"),
		row("firmware-boot-order", "a boot order of random bytes", expected, "a_boot_order_of_random_bytes"),
		row("firmware-smbios", "SMBIOS structures with missing strings", expected, "SMBIOS_structures_of_random_bytes"),
		row("firmware-fat-circle", "a FAT volume whose clusters form a circle", expected, "FAT_whose_clusters_go_in_circles"),
		row("firmware-fat-zero", "a FAT volume with clusters of no size", expected, "FAT_with_clusters_of_no_size"),
		row("firmware-fat-outside", "a FAT volume whose tables lie after its end", expected, "FAT_that_ends_before_it_begins"),
		row("firmware-gpt", "a partition table of random bytes", expected, "a_GPT_of_random_bytes"),
	}
}

func unmeasured() []Row {
	const claim = "A measurement that covers no kernel is refused for reference values, key records and node aliases"
	return []Row{
		{ID: "launch-unmeasured-refval", Input: inLaunch, Attack: "a measurement without a kernel, for reference values", Expected: "refused unless --unmeasured-kernel accepts it", Claim: claim, Shown: "refval.TestUnmeasuredKernel"},
		{ID: "launch-unmeasured-record", Input: inLaunch, Attack: "the same, for a record of the key server", Expected: "refused unless accepted", Claim: claim, Shown: "internal/cli/keys.TestKeys"},
		{ID: "launch-unmeasured-alias", Input: inLaunch, Attack: "the same, for a node alias of SPIRE", Expected: "refused unless accepted", Claim: claim, Shown: "cmd/rootvouch-spire.TestUnmeasuredKernel"},
		{ID: "launch-unmeasured-noted", Input: inLaunch, Attack: "reference values that accept it", Expected: "each verdict has a note", Claim: claim, Shown: "appraise.TestUnmeasuredKernelNote"},
		{ID: "launch-bare-noted", Input: inLaunch, Attack: "reference values that accept a kernel without the gate", Expected: "each verdict has a note", Claim: "A bare kernel is measured and launched only if a flag accepts it", Shown: "appraise.TestBareKernelNote"},
		{ID: "launch-bare-pid1", Input: inLaunch, Attack: "a bare kernel where the gate is measured", Expected: "refused: tables", Claim: "PID 1 powers off if the kernel shows an ACPI or EFI table that is not the gate's", Shown: "boot.TestVM/bare_kernel,_gate_measured"},
		{ID: "launch-other-gate", Input: inLaunch, Attack: "another gate than the measured one", Expected: "refused: tables", Claim: "PID 1 powers off if the kernel shows an ACPI or EFI table that is not the gate's", Shown: "boot.TestVM/another_gate_measured"},
	}
}

func hostTables() []Row {
	row := shownBy("gate.TestVMTables", inTables, "A kernel behind the gate has none of the host's tables")
	const expected = "the bare kernel has it (the control); the kernel behind the gate does not"
	return []Row{
		row("acpi-erst", "ERST: instructions that write the kernel's log to memory of the host", expected, "ERST"),
		row("acpi-einj", "EINJ: instructions that inject errors", expected, "EINJ"),
		row("acpi-hest", "HEST: addresses from which errors are read", expected, "HEST"),
		row("acpi-bert", "BERT: a boot error record", expected, "BERT"),
		row("acpi-wdat", "WDAT: instructions of a watchdog", expected, "WDAT"),
		row("acpi-madt", "MADT with a mailbox: an address to which the kernel writes", expected, "APIC"),
		row("acpi-mcfg", "MCFG: PCI configuration space in memory", expected, "MCFG"),
		row("acpi-srat", "SRAT: processors and memory of nodes", expected, "SRAT"),
		row("acpi-slit", "SLIT: distances of nodes", expected, "SLIT"),
		row("acpi-dmar", "DMAR: an IOMMU of the host's", expected, "DMAR"),
		row("acpi-tpm2", "TPM2: a log of the host's", expected, "TPM2"),
		row("acpi-boot", "BOOT: a register of the clock", expected, "BOOT"),
		row("acpi-dbg2", "DBG2: a debug port", expected, "DBG2"),
		row("acpi-waet", "WAET: a promise about clocks", expected, "WAET"),
		{ID: "acpi-gate-snp", Input: inTables, Attack: "the gate in an SNP guest: processors, root bridge and windows as the firmware answers there", Expected: "as emulated", Claim: "A kernel behind the gate has none of the host's tables", Hardware: "the firmware starts processors and reads devices in another way there"},
		row("acpi-rsdp", "a root pointer elsewhere", "the kernel behind the gate is given the gate's", "RSDP"),
	}
}

func dumps() []Row {
	row := shownBy("boot.TestVMDump", inDevices, "From before the first secret until power-off, no register reaches the console or a store of the host's")
	return []Row{
		row("dump-nmi", "NMIs while keys are in memory, ERST offered", "a reset; no register on the console, no record in the store", "NMI_before_dm-crypt"),
		row("dump-nmi-booted", "an NMI in the booted system", "a reset; no register on the console", "NMI_in_the_booted_system"),
		row("dump-nmi-control", "the same where root has raised the level of messages", "registers on the console: the control", "control:_NMI_with_messages_on"),
		row("dump-exception", "an exception in the kernel while the disk is decrypted, ERST offered", "a reset; no register on the console, no record in the store", "exception_while_the_disk_is_decrypted"),
		row("dump-exception-control", "an exception where root has raised the level", "registers on the console: the control", "control:_exception_with_messages_on"),
		row("dump-store", "a panic with a store of the host's", "no record", "store_with_the_words"),
		row("dump-store-control", "the same without the words of the command line", "a record: the control", "control:_store_without_the_words"),
	}
}

func plugged() []Row {
	const described = "A device of the host gets a driver only if the owner's description of the VM needs that driver"
	row := shownBy("boot.TestVMHost", inDevices, late)
	return []Row{
		row("plug-boot", "a disk plugged while PID 1 runs", "taken away at the hand-over", "disk_plugged_while_it_boots"),
		row("plug-booted", "a disk plugged under the booted system", "no driver", "disk_plugged_under_the_booted_system"),
		{ID: "plug-every-kind", Input: inDevices, Attack: "20 devices at start, each with a driver in the kernel or its modules: NVMe, SCSI, SATA, USB, PCI serial port, and others", Expected: "no driver but those of the chain, no module", Claim: described, Shown: "boot.TestVMHost/devices_of_every_kind"},
		{ID: "plug-built-in", Input: inDevices, Attack: "a kernel that has a driver although the command line bars it", Expected: "refused: kernel", Claim: described, Shown: "boot/kernel.TestNoDriver"},
		{ID: "plug-gate", Input: inDevices, Attack: "processors, memory and a device plugged into a VM behind the gate", Expected: "the kernel sees none of them; power button and power-off work", Claim: "A kernel behind the gate sees no processor, memory or device that the host plugs in", Shown: "gate.TestVMPower"},
		{ID: "plug-modules", Input: inDevices, Attack: "modules for devices of the host's in the booted system", Expected: "no module is loaded any more", Claim: late, Shown: "boot/kernel.TestSealSettings"},
		{ID: "plug-swap", Input: inDevices, Attack: "a swap area of the host's in use at the hand-over", Expected: "refused", Claim: late, Shown: "boot/kernel.TestSealRefuses"},
		{ID: "plug-snp", Input: inDevices, Attack: "NMIs, port 0x61 and memory of the host's through #VC, hidden CPUID bits, in an SNP guest", Expected: "as emulated", Claim: "Each kernel setting that hides secrets is read back from /proc and /sys", Hardware: "an SNP guest reads ports, devices and CPUID through #VC and the AMD-SP's page"},
		{ID: "memory-snp", Input: inDevices, Attack: "pages remapped, swapped, replayed or aliased by the host", Expected: "the processor refuses", Claim: "Side channels", Hardware: "the RMP and the memory encryption are the processor's"},
		{ID: "plug-hyperv", Input: inDevices, Attack: "a host that poses as Hyper-V or Xen", Expected: "refused: kernel", Claim: "Each kernel setting that hides secrets is read back from /proc and /sys", Shown: "boot/kernel.TestEnforce"},
	}
}

func shapes() []Row {
	row := shownBy("gate.TestVMMachines", inDevices, "The gate starts a kernel on the machine that it was made for")
	const boots = "boots with the gate's tables, all processors, all BARs placed"
	return []Row{
		row("shape-1", "one processor", boots, "1_vCPU"),
		row("shape-4", "four processors", boots, "4_vCPUs"),
		row("shape-12", "twelve processors", boots, "12_vCPUs"),
		row("shape-sockets", "two sockets of three cores, with gaps in the APIC IDs", boots, "2_sockets_of_3_cores"),
		row("shape-small", "512 MiB", boots, "512_MiB"),
		row("shape-medium", "3 GiB, memory below 4 GiB alone", boots, "3_GiB"),
		row("shape-larger", "12 GiB", boots, "12_GiB"),
		row("shape-large", "5 GiB, memory above 4 GiB", boots, "5_GiB"),
		row("shape-no-acpi", "no ACPI tables of the host at all", boots, "no_ACPI_from_the_host"),
		row("shape-no-hpet", "no HPET", boots, "no_HPET"),
		row("shape-bars", "a bridge and large BARs", boots, "a_bridge_and_large_BARs"),
		row("shape-export", "the disks of an export: SCSI, NVMe, several, behind bridges", boots, "disks_of_an_export"),
		{ID: "memory-small", Input: inDevices, Attack: "too little memory for the initramfs", Expected: "a reset before PID 1", Claim: "A kernel panic ends the VM", Shown: "boot.TestVMHost/too_little_memory"},
		{ID: "cpu-one", Input: inDevices, Attack: "one processor for PID 1", Expected: "it boots, with all checks", Claim: "The gate starts a kernel on the machine that it was made for", Shown: "boot.TestVMHost/one_processor"},
	}
}

func changedDisk() []Row {
	row := shownBy("boot.TestVMHost", inDisk, "A disk that is pulled, cut, stalled or cannot be read ends the boot at its step, or the running VM by a panic")
	swapped := shownBy("boot.TestVMHost", inDisk, "Blocks that are swapped, or come from an older root with the same keys, end the boot or the VM")
	several := shownBy("boot.TestVMHost", inDisk, "Another disk with the same UUID is not opened")
	return []Row{
		row("disk-pulled", "the disk is pulled while PID 1 reads it", "refused: verify", "disk_pulled_while_it_boots"),
		row("disk-pulled-booted", "the disk is pulled under the booted system", "kernel panic, reset", "disk_pulled_under_the_booted_system"),
		row("disk-cut", "the disk is cut while PID 1 reads it", "refused: verify", "disk_cut_while_it_boots"),
		row("disk-cut-booted", "the disk is cut under the booted system", "kernel panic, reset", "disk_cut_under_the_booted_system"),
		row("disk-sector", "one sector cannot be read", "refused: verify", "a_sector_that_cannot_be_read"),
		row("disk-stalls", "the disk stalls while PID 1 reads it", "refused: verify, after its bound", "a_disk_that_stalls"),
		{ID: "disk-grown", Input: inDisk, Attack: "a disk with more bytes after its end", Expected: "it boots: the pins give the size", Claim: "A wrong root hash, superblock, key or pin ends the boot at the step that checks it", Shown: "boot.TestVMHost/disk_grown"},
		{ID: "disk-grown-booted", Input: inDisk, Attack: "the disk grows under the booted system", Expected: "nothing changes", Claim: "A wrong root hash, superblock, key or pin ends the boot at the step that checks it", Shown: "boot.TestVMHost/disk_grown_under_the_booted_system"},
		swapped("disk-swapped", "two blocks are swapped", "refused: verify", "blocks_swapped"),
		swapped("disk-swapped-booted", "two blocks are swapped under the booted system", "kernel panic, reset", "blocks_swapped_under_the_booted_system"),
		swapped("disk-replay-block", "a block of an older root with the same keys", "refused: verify", "a_block_of_an_older_root_with_the_same_keys"),
		swapped("disk-replay-all", "all of an older root with the same keys", "refused: dm-verity or verify", "all_of_an_older_root_with_the_same_keys"),
		several("disk-two", "another disk with the same UUID before the right one", "the right one is found and the other taken away", "a_disk_before_the_right_one"),
		several("disk-twice", "the right disk twice", "one is used, the other taken away", "the_right_disk_twice"),
		several("disk-two-unpinned", "two encrypted disks, none measured", "refused: key, before the key server is asked", "two_disks,_none_measured"),
		several("disk-many", "more disks than are looked at", "refused: header", "more_disks_than_are_looked_at"),
		{ID: "disk-writes", Input: inDisk, Attack: "disks that take writes: the root's and one of the host's", Expected: "no byte is written", Claim: "The VM writes nothing to the root's disk or to a disk that is not its own", Shown: "boot.TestVMHost/disks_that_take_writes"},
		{ID: "disk-writes-chain", Input: inDisk, Attack: "a disk of the host's that takes writes, in each boot of the whole chain", Expected: "no byte is written", Claim: "The VM writes nothing to the root's disk or to a disk that is not its own", Shown: "test/e2e.TestHostCredentials"},
		{ID: "disk-settings", Input: inDisk, Attack: "hibernation to a disk of the host's", Expected: "off", Claim: "Each kernel setting that hides secrets is read back from /proc and /sys", Shown: "boot.TestVM/good"},
	}
}

func labels() []Row {
	row := shownBy("boot.TestVMLabels", inLabels, "entries of the image that name disks by label, partition types or the host's console start nothing")
	return []Row{
		row("label-mounts", "disks with the labels of the image's fstab, crypttab and swap", "systemd boots; no mount, no swap, no program of the host's", "as_measured"),
		row("label-line", "the same, and an owner whose command line does not forbid it", "the same", "without_the_words_of_the_command_line"),
		row("label-control", "the same where the owner leaves devices to the booted system", "the host's program runs as root, memory goes to its disk: the control", "control:_devices_of_any_kind"),
		{ID: "label-generators", Input: inLabels, Attack: "generators for partition types, hibernation, vsock, downloads; logins on the console", Expected: "masked, unless boot.json allows a login", Claim: "entries of the image that name disks by label, partition types or the host's console start nothing", Shown: "boot.TestBarOrders"},
		{ID: "label-agents", Input: inLabels, Attack: "an image with programs that take orders from the host", Expected: "each is named when the image is built", Claim: "An image with cloud-init, Ignition or a guest agent", Shown: "image/survey.TestOrders"},
		{ID: "label-tables", Input: inLabels, Attack: "an image whose fstab, crypttab or units name disks by label", Expected: "each is named when the image is built", Claim: "entries of the image that name disks by label, partition types or the host's console start nothing", Shown: "image/survey.TestNotes"},
	}
}

func clocks() []Row {
	row := shownBy("boot.TestVMHost", inClock, "PID 1 sets a clock that is behind the measured floor to the floor")
	return []Row{
		row("clock-back", "a clock in 1990", "set to the floor", "clock_in_1990"),
		row("clock-ahead", "a clock in 2090, without certificates", "taken as it is", "clock_in_2090"),
		{ID: "clock-ahead-chain", Input: inClock, Attack: "a clock in 2045, against the whole chain", Expected: "refused: agent, certificates have expired", Claim: "under a clock that is far ahead, certificates have expired and the boot ends", Shown: "test/e2e.TestClockAhead"},
		row("clock-stopped", "the VM is stopped for longer than a step may take", "it boots: the bounds are the guest's time", "stopped_for_longer_than_a_step_may_take"),
		row("clock-runs", "a clock that runs away", "refused at a step's bound", "clock_that_runs_away"),
		{ID: "clock-kms", Input: inClock, Attack: "nonces of the key server kept alive by a clock", Expected: "refused: the server's own time counts", Claim: "The KMS releases no key for a stolen or relayed report or SVID", Shown: "kms/server.TestNonces"},
		{ID: "clock-kms-log", Input: inClock, Attack: "a clock of the key server behind its log", Expected: "no release", Claim: "The KMS sends no key before one transaction has made the lease and its leaf for the log durable", Shown: "kms/server.TestClockBehindTheLog"},
	}
}

func lyingPrograms() []Row {
	row := shownBy("boot.TestVMHost", inBoot, "fetchkey accepts only the exact SPIFFE ID of the KMS, and only a reply that is sealed to fetchkey's own key")
	return []Row{
		row("fetchkey-half", "half a reply, and exit status 0", "refused: key", "half_a_reply_of_fetchkey"),
		row("fetchkey-endless", "an endless reply", "refused: key", "an_endless_reply_of_fetchkey"),
	}
}

func brokenNetwork() []Row {
	row := shownBy("boot.TestVMHost", inNetwork, "If a server does not answer, the boot ends within a bound")
	const end = "If a server does not answer, the boot ends within a bound"
	const slow = "A boot succeeds on a slow network, and if servers stop after the steps that need them"
	return []Row{
		row("network-none", "no network device", "refused: network", "no_network_device"),
		row("network-silent", "a network that answers nothing", "refused: network, after its bound", "a_network_that_answers_nothing"),
		{ID: "network-stalled-agent", Input: inNetwork, Attack: "packets are swallowed from the agent's step on, connections stay open", Expected: "refused: agent, after its bound", Claim: end, Shown: "test/e2e.TestStalledNetwork/after_network"},
		{ID: "network-stalled-key", Input: inNetwork, Attack: "packets are swallowed from the step of the key on", Expected: "refused: key, after its bound", Claim: end, Shown: "test/e2e.TestStalledNetwork/after_agent"},
		{ID: "network-slow", Input: inNetwork, Attack: "each packet waits for half a second", Expected: "it boots", Claim: slow, Shown: "test/e2e.TestSlowNetwork"},
		{ID: "network-dhcp-silent", Input: inNetwork, Attack: "DHCP servers that are silent, answer NAK, or come late", Expected: "asked until the bound", Claim: "A DHCP server that is silent for half a minute, or answers NAK", Shown: "boot/network.TestPatience"},
		{ID: "network-router-dhcp", Input: inNetwork, Attack: "router advertisements, with DHCP", Expected: "no address and no route", Claim: "The VM takes no address and no route from routers of the host's network", Shown: "boot.TestVM/good"},
		{ID: "network-router-static", Input: inNetwork, Attack: "router advertisements, with a static address", Expected: "no address and no route", Claim: "The VM takes no address and no route from routers of the host's network", Shown: "boot.TestVM/UUID_from_the_disk,_second_start_of_the_agent,_static_network,_lazy,_quiet"},
		{ID: "network-dns", Input: inNetwork, Attack: "a name that leads to another server", Expected: "no request is sent there; the next address is asked", Claim: "If one key server answers within a minute, a boot succeeds even if another key server is lost, is killed in the middle of a release, or is an impostor", Shown: "kms/fetchkey.TestAddresses"},
		{ID: "network-half-open", Input: inNetwork, Attack: "connections to the key server that are opened and left", Expected: "they make room", Claim: "silent peers keep no caller out", Shown: "kms/server.TestStrangersMakeRoom"},
		{ID: "network-replay", Input: inNetwork, Attack: "a recorded request, sent again", Expected: "refused: nonce and connection differ", Claim: "The KMS releases no key for a stolen or relayed report or SVID", Shown: "kms/server.TestNonce"},
	}
}

func servers() []Row {
	row := shownBy("test/e2e.TestServersKilled", inKeys, "A boot succeeds on a slow network, and if servers stop after the steps that need them")
	return []Row{
		row("servers-killed-after", "SPIRE server and key server are killed when the key is there", "it boots", "after_the_key"),
		row("servers-killed-before", "both are killed before they are asked, and come back", "it boots", "before_they_are_asked,_and_back"),
		{ID: "servers-kms-killed", Input: inKeys, Attack: "the key server is killed in the middle of a release", Expected: "one release, the VM gets it from the next start", Claim: "If one key server answers within a minute, a boot succeeds even if another key server is lost, is killed in the middle of a release, or is an impostor", Shown: "kms/fetchkey.TestRestart"},
		{ID: "servers-agent-api", Input: inKeys, Attack: "an agent that serves no identity, or a wrong one", Expected: "refused after its bound", Claim: "If a server does not answer, the boot ends within a bound", Shown: "kms/fetchkey.TestWorkloadAPIGivesUp"},
		{ID: "kms-other-root", Input: inKeys, Attack: "a record's root of trust is exchanged: an emulated ARK for AMD", Expected: "refused unless --change-root-of-trust says so", Claim: "`keys put` changes the root of trust of a record only with `--change-root-of-trust`", Shown: "kms/admin.TestRootOfTrust"},
		{ID: "kms-malformed", Input: inKeys, Attack: "malformed requests", Expected: "refused; the server goes on", Claim: "The KMS releases no key for a stolen or relayed report or SVID", Shown: "kms/server.TestMalformed"},
		{ID: "kms-strangers", Input: inKeys, Attack: "callers with an SVID that no record names", Expected: "refused", Claim: "The KMS releases no key for a stolen or relayed report or SVID", Shown: "kms/server.TestStrangers"},
	}
}
