package attack

const (
	inVolumes = "volumes"

	before  = "An older state of a volume, and a changed tag, journal, superblock or header, are refused before PID 1 mounts or writes the volume"
	sector  = "A read of a sector that does not fit its tag is an error and returns no data"
	two     = "If two launches ask for one volume, the second waits and is refused, or takes the volume over; after a takeover the close of the first is refused and logged"
	unclean = "A volume that was written and not closed is refused, unless its record accepts it"
)

// volumeRow returns a row of this group.
func volumeRow(id, attack, expected, claim, shown string) Row {
	return Row{ID: "volume-" + id, Input: inVolumes, Attack: attack, Expected: expected, Claim: claim, Shown: shown}
}

// heldVolumes returns attacks of a host on a volume that no VM has open, and on the
// launch that opens it.
func heldVolumes() []Row {
	const once = "PID 1 formats a volume only if the key server says that it is new"
	const other = "PID 1 refuses another VM's volume, two copies of one volume, a volume that was truncated or grown, and the key of a disk in place of a volume's key"
	vm := func(id, attack, expected, claim, sub string) Row {
		return volumeRow(id, attack, expected, claim, "boot.TestVMVolumes/"+sub)
	}
	return []Row{
		vm("rolled-back", "the volume of yesterday, whole", "refused: volume; no byte is written", before, "the_volume_of_yesterday"),
		vm("tag", "one bit of a tag", "refused: volume; no byte is written", before, "a_bit_of_a_tag"),
		vm("journal", "one bit of the journal", "refused: volume; no byte is written", before, "a_bit_of_the_journal"),
		vm("superblock", "one bit of dm-integrity's superblock", "refused: volume; no byte is written", before, "a_bit_of_the_superblock"),
		vm("header", "one bit of the LUKS2 header", "refused: volume-key; no byte is written", before, "a_bit_of_the_header"),
		vm("header-zeroed", "a zeroed header, to have data formatted over", "refused: volume-key; no byte is written", once, "a_zeroed_header_with_data_behind_it"),
		vm("two", "two copies of one volume", "refused: volume-key; no byte is written", other, "two_disks_with_the_same_header"),
		vm("other", "the volume of another VM in its place", "refused: volume-key; no byte is written", other, "the_volume_of_another_VM"),
		vm("truncated", "the volume is cut", "refused: volume; no byte is written", other, "truncated"),
		vm("grown", "the volume is made larger", "refused: volume; no byte is written", other, "grown"),
		vm("disk-key", "the key of a disk, when the VM asks for that of a volume", "refused: volume-key; no byte is written", other, "a_release_of_a_disk"),
		vm("wrong-key", "a key that does not open the volume", "refused: volume; no byte is written", other, "wrong_key"),
		vm("read-only", "a volume that takes no writes", "refused: volume", before, "read-only"),
		vm("sector", "sectors are changed and their tags are not", "refused: volume, at the mount: reads fail", sector, "a_changed_sector_is_an_error_and_no_data"),
		vm("crash", "the power is cut while the VM has the volume open", "refused: volume; no byte is written", unclean, "unclean_and_its_record_refuses_that"),
		vm("crash-accepted", "the same, and a record that accepts it", "it is opened; the boot log says that its freshness is unknown", unclean, "a_crash_and_unclean_accepted"),
		volumeRow("chain", "the volume of yesterday, against the whole chain", "refused: volume; opened only on the operator's command", before, "test/e2e.TestVolume"),
		volumeRow("database", "the power is cut again and again while a database commits", "all committed rows are there, and the database is intact", unclean, "boot.TestVMVolumeDatabase"),
	}
}

// keyedVolumes returns attacks by launches and callers of the key server, and on
// the key server's disk.
func keyedVolumes() []Row {
	const closes = "A close counts for one launch, one generation and one digest"
	const word = "Each command of an operator about a volume is on the log"
	const store = "An attacker who can write the store, but lacks its KEK, cannot change the state of a volume"
	return []Row{
		volumeRow("two-launches", "a second launch while one has the volume open", "it waits and is refused", two, "kms/ledger.TestVolumeExclusive"),
		volumeRow("takeover", "the old launch closes after a new one took the volume over", "refused and logged as a fork", two, "kms/ledger.TestVolumeTakeover"),
		volumeRow("race", "many launches ask at once, for a new volume too", "one launch gets it; it is new once", two, "kms/ledger.TestVolumeRace"),
		volumeRow("commit", "a close of another launch, generation or digest, or with a changed byte", "refused", closes, "kms/keyapi.TestCommit"),
		volumeRow("commit-name", "a caller without an SVID, at the name that takes commits", "it can commit and nothing else", closes, "kms/server.TestCommitNameAlone"),
		volumeRow("generations", "a launch closes again, or as a generation that is not the next", "refused and logged as a fork", closes, "kms/ledger.TestVolumeGenerations"),
		volumeRow("words", "an operator secretly accepts, frees, restores or resets a volume", "each command is in the log, with the user who gave it", word, "kms/ledger.TestVolumeWords"),
		volumeRow("judge", "a key server tells a launch something else than its log says", "an auditor finds it", word, "kms/ledger.TestVolumeJudge"),
		volumeRow("store", "the digest of a volume is changed in the key server's store", "refused", store, "kms/ledger.TestVolumeChangedInStore"),
		volumeRow("restore", "a backup of the key server that is older than the last close", "no volume is new again, no volume has an older digest", "After a restore no volume that was formatted since the backup is new again", "kms/restore.TestRestoreVolumes"),
		volumeRow("attest", "a VM hides from its owner that a volume's freshness is unknown", "`attest` says it, from the boot log", unclean, "attest.TestVolumes"),
	}
}

// usedVolumes returns attacks of a host on sectors, and power cuts, lost messages
// and lost servers at any moment.
func usedVolumes() []Row {
	const durable = "No durable write is lost by a power cut or a lost message"
	row := func(id, attack, expected, claim, shown string) Row {
		return volumeRow(id, attack, expected, claim, "boot."+shown)
	}
	return []Row{
		row("swapped", "two sectors exchanged with their tags", "refused: volume; no byte is written", before, "TestVMVolumes/two_sectors_swapped_with_their_tags"),
		row("swapped-data", "two sectors exchanged without their tags", "an error where they are read", sector, "TestVMVolumes/two_sectors_swapped_without_their_tags"),
		row("older-sector", "a sector and its tag of the generation before, while the volume is closed", "refused: volume; no byte is written", before, "TestVMVolumes/a_sector_of_an_older_state_with_its_tag"),
		row("older-data", "the same without its tag", "an error where it is read", sector, "TestVMVolumes/a_sector_of_an_older_state_without_its_tag"),
		row("first-boot", "the power is cut, or a message is lost, at every step of a first boot", "nothing is formatted again without the operator's command; no durable row is lost", durable, "TestVMVolumeFaults/first_boot"),
		row("cuts", "the same while a volume is opened, written, closed and committed, and older states offered between", "no durable row is lost; nothing older is opened as fresh", durable, "TestVMVolumeFaults/exclusive"),
		row("cuts-takeover", "the same, with takeover and unclean volumes accepted", "no durable row is lost; nothing older is opened as fresh", durable, "TestVMVolumeFaults/takeover"),
		row("host-cut-first", "the host loses its power, and what was not flushed, during a first boot", "no half-made volume is opened; no durable row is lost", durable, "TestVMVolumeFaults/first_boot_on_a_host_that_loses_its_power"),
		row("host-cut", "the same while a volume is opened, written, closed and committed", "no durable row is lost; what was closed is fresh", durable, "TestVMVolumeFaults/host_that_loses_its_power"),
		row("no-network", "no network at the close", "the VM goes down; the volume is unclean, and has all rows", durable, "TestVMVolumeNoNetwork"),
		row("two-vms", "two VMs with copies of one volume at once, exclusive", "one VM gets it, the other is refused", two, "TestVMVolumeTwoLaunches/exclusive"),
		row("two-vms-takeover", "the same, with takeover", "the close of the older VM is refused and logged as a fork", two, "TestVMVolumeTwoLaunches/takeover"),
		row("restored", "the key server is restored from a backup, and the host offers the volume of then", "refused: volume; the right one is fresh", "After a restore no volume that was formatted since the backup is new again", "TestVMVolumeRestored"),
	}
}
