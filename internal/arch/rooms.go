package arch

// rooms is the import table, from the ground up. A package belongs to the first
// room that names it.
var rooms = []room{
	{
		name:     "the ground under the ground",
		packages: []string{"pins", "internal/strictjson"},
		pure:     true, neverDirect: world,
	},
	{
		name:     "ground: formats",
		packages: []string{"snp", "verity", "xts", "cpio", "keyapi", "bootconfig", "bootlog"},
		pure:     true, neverDirect: world,
	},
	{
		name:     "ground: luks2, which encrypts its keyslot area",
		packages: []string{"luks2"},
		uses:     []string{"xts"},
		pure:     true, neverDirect: world,
	},
	{name: "ground: files that appear whole", packages: []string{"internal/durable"}, never: []string{"net"}},
	{name: "proof: what a test needs", packages: []string{"internal/needs"}, never: network},
	{name: "proof: this table", packages: []string{"internal/arch"}, never: network},
	{
		name:     "meaning: throw-away chains",
		packages: []string{"snp/emuchain"},
		uses:     []string{"snp"},
		pure:     true, neverDirect: world,
	},
	{
		name:     "meaning: the launch digest",
		packages: []string{"snp/launch/..."},
		uses:     []string{"snp"}, within: true,
		pure: true, never: network,
	},
	{
		name:     "meaning: evidence",
		packages: []string{"evidence"},
		uses:     []string{"snp"},
		pure:     true, neverDirect: world,
	},
	{
		name:     "meaning: reference values",
		packages: []string{"refval"},
		uses:     []string{"snp"},
		pure:     true, neverDirect: world,
	},
	{
		name:     "meaning: collateral from files and from AMD",
		packages: []string{"snp/kds"},
		uses:     []string{"snp", "internal/durable"},
		never:    []string{module + "/appraise"},
	},
	{
		name:     "meaning: the report device",
		packages: []string{"snp/snpdev"},
		uses:     []string{"snp", "evidence"},
		never:    network,
	},
	{name: "meaning: device-mapper", packages: []string{"dm"}, uses: []string{"verity"}, never: network},
	{
		name:     "judge",
		packages: []string{"appraise"},
		uses:     []string{"snp", "refval", "evidence"},
		pure:     true, neverDirect: world, never: []string{module + "/snp/kds", "net/http"},
	},
	{
		name:     "role: PID 1",
		packages: []string{"boot", "cmd/init"},
		uses:     []string{"dm", "luks2", "verity", "bootconfig", "bootlog", "keyapi"}, within: true,
		never: network,
	},
	{
		name:     "role: fetchkey",
		packages: []string{"fetchkey", "cmd/fetchkey"},
		uses:     []string{"keyapi", "bootconfig", "evidence", "snp/snpdev"}, within: true,
		never: []string{module + "/kms/...", module + "/appraise", module + "/refval"},
	},
	{
		name:     "role: node attestation, guest",
		packages: []string{"nodeattest", "nodeattest/agent", "cmd/snp-agent-plugin"},
		uses:     []string{"evidence", "snp/snpdev"}, within: true,
		never: []string{module + "/appraise", module + "/snp/kds", module + "/refval"},
	},
	{
		name:     "role: node attestation, server",
		packages: []string{"nodeattest/server", "cmd/snp-server-plugin"},
		uses:     []string{"nodeattest", "appraise", "evidence", "refval", "snp", "snp/kds"}, within: true,
		never: []string{module + "/snp/snpdev", module + "/kms/..."},
	},
	{
		name:     "ground: messages between attestd and the owner",
		packages: []string{"attestapi"},
		uses:     []string{"evidence", "bootlog"},
		pure:     true, neverDirect: world,
	},
	{
		name:     "role: the owner who asks",
		packages: []string{"attest"},
		uses:     []string{"attestapi", "appraise", "bootlog", "evidence", "refval", "snp"},
		never:    []string{module + "/snp/snpdev", module + "/kms/..."},
	},
	{
		name:     "role: attestd",
		packages: []string{"attestd", "cmd/attestd"},
		uses:     []string{"attestapi", "bootlog", "bootconfig", "evidence", "snp/snpdev"}, within: true,
		never: []string{module + "/appraise", module + "/snp/kds", module + "/refval", module + "/kms/..."},
	},
	{
		name:     "role: the key server",
		packages: []string{"kms/...", "cmd/rootvouch-kms"},
		uses:     []string{"keyapi", "appraise", "evidence", "refval", "snp", "snp/kds", "internal/durable"}, within: true,
		never: []string{module + "/snp/snpdev", module + "/nodeattest/..."},
	},
	{
		name:     "role: disk images",
		packages: []string{"image/..."},
		uses:     []string{"luks2", "verity", "xts", "refval", "snp/launch", "internal/durable"}, within: true,
		never: []string{"net", "net/http", "github.com/spiffe/..."},
	},
	{
		name:     "role: initramfs",
		packages: []string{"initramfs/..."},
		uses:     []string{"cpio", "bootconfig", "internal/durable"}, within: true,
		never: []string{"net/http", "github.com/spiffe/..."},
	},
	{
		name:     "role: platforms",
		packages: []string{"platform", "platform/asp"},
		uses:     []string{"snp", "snp/launch", "snp/launch/idblock", "snp/emuchain", "internal/durable"}, within: true,
		never: []string{"github.com/spiffe/...", module + "/appraise"},
	},
	{
		name:     "proof: signers of true reports",
		packages: []string{"snp/snptest", "snp/snpdev/snpdevtest"},
		uses:     []string{"snp", "snp/emuchain", "evidence", "refval", "snp/kds"}, within: true,
	},
	{
		name:     "proof: VMs in tests",
		packages: []string{"internal/vmtest", "internal/vmtest/guest"},
		uses:     []string{"platform", "platform/asp", "internal/needs", "cpio", "snp/snpdev"},
	},
	{
		name:     "role: the owner's side of SPIRE",
		packages: []string{"spiretrust", "spireconf", "spireadmin"},
		uses:     []string{"nodeattest", "refval", "snp", "internal/durable"}, within: true,
		never: []string{module + "/kms/...", module + "/appraise"},
	},
	{
		name:     "wiring: the demo, which runs commands",
		packages: []string{"demo"},
		uses:     []string{"internal/durable", "platform"},
		never:    []string{"github.com/spiffe/..."},
	},
	{
		name:     "door: the owner's tool",
		packages: []string{"cmd/rootvouch"},
		uses: []string{"appraise", "attest", "attestd", "bootconfig", "bootlog", "demo", "evidence", "image/...", "initramfs/...",
			"internal/durable", "kms/...", "keyapi", "luks2", "platform/...", "refval", "snp/...", "spireadmin", "spireconf", "spiretrust"},
		never: []string{module + "/boot", module + "/dm"},
	},
	{name: "proof: the whole chain", packages: []string{"test/..."}, uses: []string{"..."}},
}
