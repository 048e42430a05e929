package attack

const (
	inBoot     = "agent, fetchkey, boot.json"
	inNetwork  = "network"
	inReports  = "reports, certificates"
	inKeys     = "key server"
	inIdentity = "SPIRE, owner"
	inFiles    = "files at the owner's"
)

func boot() []Row {
	const end = "If a server does not answer, the boot ends within a bound"
	const console = "Text from other programs cannot forge lines of PID 1"
	vm := func(id, attack, expected, claim, sub string) Row {
		return Row{ID: id, Input: inBoot, Attack: attack, Expected: expected, Claim: claim, Shown: "boot.TestVM/" + sub}
	}
	return []Row{
		vm("agent-down", "SPIRE server refuses connections", "refused: agent, after its bound", end, "agent_is_down"),
		vm("agent-silent", "SPIRE server is silent", "refused: agent, after its bound", end, "agent_is_silent"),
		vm("agent-refused", "SPIRE server refuses the measurement", "refused: agent, at once", "A VM with another measurement gets no identity and no key", "agent_is_refused"),
		vm("fetchkey-refused", "key server answers 403", "refused: key, with the reason", "A disabled record releases nothing", "fetchkey_fails"),
		vm("fetchkey-silent", "key server is silent", "refused: key, after its bound", end, "fetchkey_is_silent"),
		vm("fetchkey-failed-reply", "a reply, then failure", "refused: key; the reply is not used", "fetchkey accepts only the exact SPIFFE ID of the KMS, and only a reply that is sealed to fetchkey's own key", "reply_of_a_failure"),
		vm("config-none", "an initramfs without boot.json", "refused: config", "No value in `boot.json` can inject syntax", "no_boot.json"),
		vm("config-strange", "a boot.json with an unknown field", "refused: config", "No value in `boot.json` can inject syntax", "strange_boot.json"),
		vm("attestd-fails", "no report device for attestd", "refused: switch", "If a server does not answer, the boot ends within a bound", "attestd_fails"),
		{ID: "config-injection", Input: inBoot, Attack: "boot.json values with line breaks and separators", Expected: "refused", Claim: "No value in `boot.json` can inject syntax", Shown: "boot/bootconfig.TestCheckRefuses"},
		{ID: "console-forged", Input: inBoot, Attack: "child processes print lines that look like PID 1's", Expected: "shown as lines of the child", Claim: console, Shown: "boot.TestConsole"},
		{ID: "console-control", Input: inBoot, Attack: "child processes print control characters", Expected: "replaced", Claim: console, Shown: "boot.TestClean"},
		{ID: "console-keys", Input: inBoot, Attack: "a key on a console in hex, base64 or raw", Expected: "found by the search that every VM test does", Claim: "no key is on any console, in any form", Shown: "boot.TestShown"},
		{ID: "memory-release", Input: inBoot, Attack: "the key in PID 1's buffers after its use", Expected: "wiped", Claim: "PID 1 wipes keys", Shown: "boot/agent.TestReadReleaseWipes"},
		{ID: "memory-unlock", Input: inBoot, Attack: "the volume key in PID 1's buffers after its use", Expected: "wiped", Claim: "PID 1 wipes keys", Shown: "boot/disk.TestUnlockWipes"},
	}
}

func network() []Row {
	const impostor = "An impostor at the SPIRE server's address without the server's certificate gets no evidence"
	return []Row{
		{ID: "dhcp-hostile", Input: inNetwork, Attack: "leases with invalid names, options and addresses", Expected: "refused or left out", Claim: "A hostile DHCP server cannot inject text into the files that PID 1 writes", Shown: "boot/network.TestParseLeaseRefuses"},
		{ID: "dhcp-files", Input: inNetwork, Attack: "lease values that would end a line in a network file", Expected: "no file has them", Claim: "A hostile DHCP server cannot inject text into the files that PID 1 writes", Shown: "boot/network.TestNetworkFiles"},
		{ID: "kms-impostor", Input: inNetwork, Attack: "a key server with another identity", Expected: "no request is sent; refused: key", Claim: "A KMS with another identity gets no request", Shown: "test/e2e.TestImpostorKMS/with_another_SPIFFE_ID"},
		{ID: "kms-lies-key", Input: inNetwork, Attack: "a key server with the right identity sends another key", Expected: "refused: dm-crypt", Claim: "a KMS with the right identity cannot make the VM open another disk", Shown: "test/e2e.TestImpostorKMS/that_sends_another_key"},
		{ID: "kms-lies-pin", Input: inNetwork, Attack: "the same sends the pin of another disk", Expected: "refused: key", Claim: "a KMS with the right identity cannot make the VM open another disk", Shown: "test/e2e.TestImpostorKMS/that_sends_another_header_pin"},
		{ID: "kms-lies-unpinned", Input: inNetwork, Attack: "the same, to a guest that leaves the pin to the key server", Expected: "refused: header", Claim: "a KMS with the right identity cannot make the VM open another disk", Shown: "test/e2e.TestImpostorKMS/that_sends_another_header_pin_to_a_guest_that_has_none"},
		{ID: "spire-impostor", Input: inNetwork, Attack: "a SPIRE server with a certificate that the measured root did not sign", Expected: "refused: agent; no evidence is sent", Claim: impostor, Shown: "test/e2e.TestImpostorSPIRE/with_another_certificate"},
		{ID: "spire-impostor-silent", Input: inNetwork, Attack: "a SPIRE server that accepts connections and says nothing", Expected: "refused: agent, after its bound", Claim: impostor, Shown: "test/e2e.TestImpostorSPIRE/silent"},
		{ID: "servers-unreachable", Input: inNetwork, Attack: "no route to SPIRE or key server", Expected: "refused within a bound", Claim: "If a server does not answer, the boot ends within a bound", Shown: "test/e2e.TestUnreachable"},
		{ID: "fetchkey-replies", Input: inNetwork, Attack: "replies that are cut, of another request, not sealed, too large", Expected: "refused", Claim: "fetchkey accepts only the exact SPIFFE ID of the KMS, and only a reply that is sealed to fetchkey's own key", Shown: "kms/fetchkey.TestFetchFails"},
		{ID: "fetchkey-lost", Input: inNetwork, Attack: "the reply is lost on the way", Expected: "the same bytes again within 210 s, nothing after", Claim: "One release for each launch and disk", Shown: "kms/fetchkey.TestLostReply"},
		{ID: "attest-middleman", Input: inNetwork, Attack: "a middleman between owner and VM", Expected: "not authentic", Claim: "An attacker between owner and VM cannot answer for the VM", Shown: "attest.TestMiddleman"},
		{ID: "attest-changed", Input: inNetwork, Attack: "the VM's answer is changed on the way", Expected: "not authentic", Claim: "An attacker between owner and VM cannot answer for the VM", Shown: "attest.TestChangedAnswer"},
		{ID: "attest-twin", Input: inNetwork, Attack: "a twin VM answers", Expected: "told apart by the release", Claim: "a twin VM is told apart", Shown: "attest.TestInstance"},
		{ID: "attest-terminal", Input: inNetwork, Attack: "an answer with terminal control characters", Expected: "printed escaped", Claim: "An impostor of a VM gets no control character onto the owner's terminal", Shown: "attest.TestPeerCannotDriveTerminal"},
		{ID: "attestd-idle", Input: inNetwork, Attack: "strangers hold attestd's connections", Expected: "the owner is answered", Claim: "One stranger cannot keep the owner from attestd", Shown: "attest/attestd.TestIdleClients"},
		{ID: "attestd-flood", Input: inNetwork, Attack: "strangers ask endlessly", Expected: "bounded wait, bounded log", Claim: "One stranger cannot keep the owner from attestd", Shown: "attest/attestd.TestTooManyWait"},
		{ID: "kds-lies", Input: inNetwork, Attack: "a mirror of AMD's service lies", Expected: "refused", Claim: "A mirror of AMD's service that lies, stalls or rolls back does no harm", Shown: "snp/kds.TestLies"},
		{ID: "kds-stalls", Input: inNetwork, Attack: "a mirror of AMD's service stalls", Expected: "ends within a bound", Claim: "A mirror of AMD's service that lies, stalls or rolls back does no harm", Shown: "snp/kds.TestStalled"},
		{ID: "kds-rollback", Input: inNetwork, Attack: "an older CRL", Expected: "the newer one stays", Claim: "A mirror of AMD's service that lies, stalls or rolls back does no harm", Shown: "snp/kds.TestCRLOverTime"},
	}
}

func reports() []Row {
	const bit = "A signed report with one changed bit is refused"
	return []Row{
		{ID: "report-bits", Input: inReports, Attack: "each bit of a signed report", Expected: "refused", Claim: bit, Shown: "snp.TestEveryBitCounts"},
		{ID: "report-mutated", Input: inReports, Attack: "each bit of a report, to the judge", Expected: "not authentic or malformed", Claim: bit, Shown: "appraise.TestMutatedReport"},
		{ID: "certificate-mutated", Input: inReports, Attack: "each byte of the chain", Expected: "not authentic or malformed", Claim: bit, Shown: "appraise.TestMutatedCertificates"},
		{ID: "report-policy", Input: inReports, Attack: "debug, migration, other VMPL, other ID block, old TCB", Expected: "refused, every mismatch named", Claim: "Firmware older than the minimum TCB is refused", Shown: "appraise.TestRefusals"},
		{ID: "report-revoked", Input: inReports, Attack: "CRL missing, stale, future, foreign; certificate revoked", Expected: "refused", Claim: "Evidence is refused if the CRL is missing, stale, of the future, wrongly signed or of another root", Shown: "appraise.TestRevocation"},
		{ID: "report-emulated", Input: inReports, Attack: "emulated evidence for a production record, against the whole chain", Expected: "refused", Claim: "Emulated evidence never satisfies a production record", Shown: "test/e2e.TestEmulatedEvidenceForProduction"},
		{ID: "report-leaked-chip", Input: inReports, Attack: "a report of the chip whose keys are public", Expected: "refused whatever the values say", Claim: "The chip whose keys are public is refused", Shown: "appraise.TestVectorCompromisedChip"},
		{ID: "evidence-purpose", Input: inReports, Attack: "evidence for one purpose as evidence for another", Expected: "refused", Claim: "Evidence that was made for one purpose is refused for another", Shown: "evidence.TestBindings"},
		{ID: "evidence-malformed", Input: inReports, Attack: "malformed evidence", Expected: "refused", Claim: "Evidence that was made for one purpose is refused for another", Shown: "evidence.TestDecodeRefuses"},
		{ID: "certificate-table", Input: inReports, Attack: "a certificate table with overlaps, gaps, strange sizes", Expected: "refused", Claim: bit, Shown: "snp.TestCertTableRefuses"},
		{ID: "port-answers", Input: inReports, Attack: "malformed answers on the report port", Expected: "refused", Claim: "Malformed requests do not stop the software AMD-SP", Shown: "snp/snpdev.TestPortRefuses"},
		{ID: "report-genuine-snp", Input: inReports, Attack: "genuine reports of a hostile SNP host", Expected: "as with the software AMD-SP", Claim: "AMD-SP and its keys", Hardware: "the software AMD-SP stands for the processor"},
	}
}

func keys() []Row {
	const once = "One release for each launch and disk"
	const stolen = "The KMS releases no key for a stolen or relayed report or SVID"
	return []Row{
		{ID: "kms-relay", Input: inKeys, Attack: "evidence of one VM, relayed for another SVID, disk or HPKE key", Expected: "refused", Claim: stolen, Shown: "kms/server.TestRelay"},
		{ID: "kms-nonce", Input: inKeys, Attack: "nonce of another caller, old, used", Expected: "refused", Claim: stolen, Shown: "kms/server.TestNonce"},
		{ID: "kms-locks", Input: inKeys, Attack: "each lock alone", Expected: "refused", Claim: stolen, Shown: "kms/server.TestLocks"},
		{ID: "kms-twice", Input: inKeys, Attack: "a second release to one launch", Expected: "refused", Claim: once, Shown: "kms/server.TestFetch"},
		{ID: "kms-race", Input: inKeys, Attack: "many requests of one launch at once", Expected: "one release", Claim: once, Shown: "kms/server.TestRace"},
		{ID: "kms-restart", Input: inKeys, Attack: "a second release after a restart", Expected: "refused", Claim: once, Shown: "kms/server.TestRestart"},
		{ID: "kms-root", Input: inKeys, Attack: "root in the booted VM asks again", Expected: "refused", Claim: "Root in the booted system cannot get the key again", Shown: "test/e2e.TestSecondRequestFromBootedSystem"},
		{ID: "kms-disabled", Input: inKeys, Attack: "launch after the record was disabled", Expected: "refused: key", Claim: "A disabled record releases nothing", Shown: "test/e2e.TestDisabledRecord"},
		{ID: "kms-older-image", Input: inKeys, Attack: "launch of an older image that the host has kept", Expected: "refused once its record is retired", Claim: "The key of a retired record goes to no VM until an operator revives that record", Shown: "kms/ledger.TestRetired"},
		{ID: "kms-older-measurement", Input: inKeys, Attack: "launch of an older measurement of one record", Expected: "refused when it has expired", Claim: "A launch with the measurement of an earlier version gets the key until that measurement expires", Shown: "kms/server.TestOldMeasurement"},
		{ID: "kms-many-launches", Input: inKeys, Attack: "launches of one image again and again", Expected: "as many keys within an hour as the owner allows", Claim: "If a host launches an image again and again, the KMS releases only as many keys within an hour as the record allows", Shown: "kms/server.TestCap"},
		{ID: "kms-no-audit", Input: inKeys, Attack: "the store cannot be written", Expected: "no release", Claim: "The KMS sends no key before one transaction has made the lease and its leaf for the log durable", Shown: "kms/server.TestNoStore"},
		{ID: "kms-crash", Input: inKeys, Attack: "killed at each step of a release", Expected: "nothing released twice or unlogged", Claim: "The KMS sends no key before one transaction has made the lease and its leaf for the log durable", Shown: "kms/server.TestCrash"},
		{ID: "kms-old-store", Input: inKeys, Attack: "an older store put back", Expected: "does not start", Claim: "A server does not serve with an older store and the newest log", Shown: "kms/publish.TestOldStore"},
		{ID: "kms-store-changed", Input: inKeys, Attack: "a record's recipient changed in the store", Expected: "refused", Claim: "An attacker who can write the store, but lacks its KEK, cannot change who gets a key", Shown: "kms/store.TestChangedFile"},
		{ID: "kms-audit-changed", Input: inKeys, Attack: "the log is changed, cut, reordered", Expected: "audit verify says so", Claim: "`audit verify` finds a log that was changed, cut or reordered", Shown: "kms/tlogdir.TestChanged"},
		{ID: "kms-hostile-text", Input: inKeys, Attack: "requests with control characters and broken UTF-8", Expected: "escaped; the log stays readable", Claim: "Text from a peer cannot make a log unreadable", Shown: "kms/audit.TestHostileText"},
		{ID: "kms-nonce-flood", Input: inKeys, Attack: "ever new requests for nonces", Expected: "takes no nonce from others", Claim: "uses up no other caller's nonce", Shown: "kms/server.TestNonces"},
		{ID: "kms-refusal-flood", Input: inKeys, Attack: "endless refusals", Expected: "1000 leaves a day", Claim: "adds at most 1000 leaves a day", Shown: "kms/server.TestRefusalsAreBounded"},
		{ID: "kms-silent", Input: inKeys, Attack: "peers that connect and say nothing", Expected: "callers are served", Claim: "silent peers keep no caller out", Shown: "kms/server.TestSilentPeers"},
		{ID: "kms-idle", Input: inKeys, Attack: "callers that keep connections", Expected: "make room", Claim: "Callers with idle connections keep no other caller out", Shown: "kms/server.TestIdleCallersMakeRoom"},
		{ID: "kms-admin-socket", Input: inKeys, Attack: "another user serves the admin socket's path", Expected: "no key is sent", Claim: "`keys put` sends no key to an admin socket that another user serves", Shown: "kms/adminapi.TestServerOfAnotherUser"},
	}
}

func identity() []Row {
	return []Row{
		{ID: "spire-silent", Input: inIdentity, Attack: "silent peers at the node attestor", Expected: "bounded; others are served", Claim: "Silent peers of the node attestor take bounded memory and keep no other peer out", Shown: "spire/nodeattest/server.TestSilentPeer"},
		{ID: "spire-many", Input: inIdentity, Attack: "thousands of peers", Expected: "the oldest gives way", Claim: "Silent peers of the node attestor take bounded memory and keep no other peer out", Shown: "spire/nodeattest/server.TestTooManyPeers"},
		{ID: "spire-payload", Input: inIdentity, Attack: "strange payloads to the node attestor", Expected: "refused", Claim: "A peer can neither crash nor hang the node attestor", Shown: "spire/nodeattest/server.TestRefuses"},
		{ID: "spire-leak", Input: inIdentity, Attack: "a peer tries to learn reference values from refusals", Expected: "it learns the names of checks only", Claim: "learns only the names of checks", Shown: "spire/nodeattest/server.TestPeerLearnsNoValues"},
		{ID: "spire-reload", Input: inIdentity, Attack: "a measurement that was taken back", Expected: "refused at once", Claim: "A removed reference value, or a revocation, takes effect at the next attestation", Shown: "spire/nodeattest/server.TestReload"},
		{ID: "spire-emulated-id", Input: inIdentity, Attack: "an emulated root takes a real agent's ID", Expected: "refused", Claim: "The holder of an emulated ARK gets no real agent's ID", Shown: "spire/nodeattest/server.TestEmulatedTakesNoAgentID"},
		{ID: "spire-entries", Input: inIdentity, Attack: "entries that would give a VM the key server's identity", Expected: "refused", Claim: "No VM gets the owner's alias or the key server's identity", Shown: "spire/admin.TestEntriesRefuse"},
		{ID: "spire-rotation", Input: inIdentity, Attack: "the SPIRE CA rotates between measuring and boot", Expected: "the VM boots", Claim: "A VM boots also after the SPIRE CA was rotated", Shown: "test/e2e.TestBootAfterCARotation"},
	}
}

func files() []Row {
	return []Row{
		{ID: "refval-field", Input: inFiles, Attack: "each field of the reference values left out or misspelt", Expected: "refused", Claim: "A forgotten or misspelt reference value never widens what is accepted", Shown: "refval.TestEveryFieldRequired"},
		{ID: "initramfs-two-meanings", Input: inFiles, Attack: "an initramfs that two readers understand differently", Expected: "refused", Claim: "an initramfs that two readers could read differently is refused", Shown: "initramfs.TestReadRefuses"},
		{ID: "trust-root", Input: inFiles, Attack: "a trust root that is no CA, expired or another domain's", Expected: "not measured", Claim: "A trust root that is no CA, did not sign itself, expires within 30 days or is another domain's is not measured", Shown: "initramfs.TestConfigureRefusesTrustRoot"},
		{ID: "image-partial", Input: inFiles, Attack: "a build that is interrupted at any step", Expected: "nothing is left", Claim: "a failed build leaves no file", Shown: "image.TestCompleteOrNothing"},
	}
}
