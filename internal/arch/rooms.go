package arch

// rooms is the import table, floor by floor from the ground up. A package belongs
// to the first room that names it.
var rooms = []room{
	// The ground: formats, and helpers that every floor uses.
	{
		name:     "the ground under the ground",
		packages: []string{"pins", "internal/strictjson", "internal/emulated"},
		pure:     true, neverDirect: outside,
	},
	{
		name:     "ground: formats",
		packages: []string{"snp", "snp/p384", "verity", "xts", "initramfs/cpio", "image/erofs", "image/ext4", "boot/cmdline", "boot/bootlog"},
		pure:     true, neverDirect: outside,
	},
	{
		name:     "ground: luks2, which encrypts its keyslot area",
		packages: []string{"luks2"},
		uses:     []string{"xts"},
		pure:     true, neverDirect: outside,
	},
	{
		name:     "ground: volumes, which have a LUKS2 header",
		packages: []string{"volume"},
		uses:     []string{"luks2"},
		pure:     true, neverDirect: outside,
	},
	{name: "ground: an agent's file", packages: []string{"spire/agentconf"}, pure: true, neverDirect: outside},
	{name: "ground: commands as a shell reads them", packages: []string{"internal/shell"}, pure: true, neverDirect: outside},
	{name: "ground: what a file is", packages: []string{"internal/filekind"}, pure: true, neverDirect: outside},
	{name: "ground: unified kernel images", packages: []string{"uki"}, pure: true, neverDirect: outside, never: network},
	{
		name:     "ground: the gate before the kernel",
		packages: []string{"gate/..."},
		uses:     []string{"uki"}, within: true,
		pure: true, neverDirect: outside, never: network,
	},
	{
		name:     "ground: firmware volumes",
		packages: []string{"snp/firmware/..."},
		within:   true,
		pure:     true, neverDirect: outside,
	},
	{
		name:     "ground: boot.json, which holds the command line",
		packages: []string{"boot/bootconfig"},
		uses:     []string{"boot/cmdline"},
		pure:     true, neverDirect: outside,
	},
	{name: "ground: inputs with a greatest size", packages: []string{"internal/bounded"}, never: network},
	{name: "ground: files that appear whole", packages: []string{"internal/durable"}, never: []string{"net"}},
	{name: "ground: numbers of bytes as people write them", packages: []string{"internal/bytesize"}, never: network},
	{name: "ground: how a command ends", packages: []string{"internal/command"}, uses: []string{"internal/bounded"}, never: network},

	// Meaning: what the bytes stand for.
	{
		name:     "meaning: throw-away chains",
		packages: []string{"snp/emuchain"},
		uses:     []string{"snp"},
		pure:     true, neverDirect: outside,
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
		pure:     true, neverDirect: outside,
	},
	{
		name:     "meaning: evidence that lacks its certificate",
		packages: []string{"evidence/kept"},
		uses:     []string{"snp", "internal/durable"},
		never:    network,
	},
	{
		name:     "meaning: messages between a guest and the key server",
		packages: []string{"kms/keyapi"},
		uses:     []string{"evidence"},
		pure:     true, neverDirect: outside,
	},
	{
		name:     "meaning: reference values",
		packages: []string{"refval"},
		uses:     []string{"snp"},
		pure:     true, neverDirect: outside,
	},
	{
		name:     "meaning: collateral from files and from AMD",
		packages: []string{"snp/kds"},
		uses:     []string{"snp", "internal/bounded", "internal/durable"},
		never:    []string{module + "/appraise"},
	},
	{
		name:     "meaning: the report device",
		packages: []string{"snp/snpdev"},
		uses:     []string{"snp", "evidence", "internal/bounded"},
		never:    network,
	},
	{
		name:     "meaning: the AMD-SP of a host",
		packages: []string{"snp/snphost"},
		uses:     []string{"snp"},
		never:    network,
	},
	{
		name:     "meaning: the picture of a boot",
		packages: []string{"boot/timeline"},
		uses:     []string{"boot/bootlog"},
		pure:     true, neverDirect: outside,
	},
	{name: "meaning: device-mapper", packages: []string{"dm"}, never: network},
	{
		name:     "meaning: messages between attestd and the owner",
		packages: []string{"attest/attestapi"},
		uses:     []string{"evidence", "boot/bootlog"},
		pure:     true, neverDirect: outside,
	},

	// The judge.
	{
		name:     "judge",
		packages: []string{"appraise"},
		uses:     []string{"snp", "snp/p384", "refval", "evidence"},
		pure:     true, neverDirect: outside, never: []string{module + "/snp/kds", "net/http"},
	},

	// Roles: one for each actor.
	{name: "role: PID 1, waiting", packages: []string{"boot/wait"}, never: network},
	{name: "role: PID 1, processes", packages: []string{"boot/process"}, uses: []string{"boot/wait"}, never: network},
	{name: "role: PID 1, the kernel's settings", packages: []string{"boot/kernel"}, never: network},
	{
		name:     "role: PID 1, network",
		packages: []string{"boot/network"},
		uses:     []string{"boot/bootconfig", "boot/wait"},
		never:    network,
	},
	{
		name:     "role: PID 1, the way to the key",
		packages: []string{"boot/agent"},
		uses:     []string{"boot/bootconfig", "boot/process", "boot/wait", "kms/keyapi", "spire/agentconf"},
		never:    network,
	},
	{
		name:     "role: PID 1, disk",
		packages: []string{"boot/disk"},
		uses:     []string{"dm", "luks2", "verity", "boot/wait"},
		never:    network,
	},
	{
		name:     "role: PID 1, volumes",
		packages: []string{"boot/volumes"},
		uses:     []string{"boot/bootconfig", "boot/bootlog", "boot/disk", "boot/process", "boot/wait", "dm", "kms/keyapi", "luks2", "volume"},
		never:    network,
	},
	{
		name:     "role: PID 1, the gate's tables",
		packages: []string{"boot/tables"},
		uses:     []string{"boot/bootconfig", "gate/program", "gate/tables", "internal/bounded"},
		never:    network,
	},
	{
		name:     "role: PID 1",
		packages: []string{"boot", "cmd/init"},
		uses: []string{"boot/agent", "boot/bootconfig", "boot/bootlog", "boot/cmdline", "boot/disk", "boot/kernel", "boot/network",
			"boot/process", "boot/tables", "boot/volumes", "boot/wait", "kms/keyapi", "volume"}, within: true,
		never: network,
	},
	{
		name:     "role: fetchkey",
		packages: []string{"kms/fetchkey", "cmd/fetchkey"},
		uses:     []string{"kms/keyapi", "boot/bootconfig", "evidence", "snp/snpdev"}, within: true,
		never: append([]string{module + "/appraise", module + "/refval"}, keyServer...),
	},
	{
		name:     "role: node attestation, guest",
		packages: []string{"spire/nodeattest", "spire/nodeattest/agent", "cmd/snp-agent-plugin"},
		uses:     []string{"evidence", "snp/snpdev"}, within: true,
		never: []string{module + "/appraise", module + "/snp/kds", module + "/refval"},
	},
	{
		name:     "role: node attestation, server",
		packages: []string{"spire/nodeattest/server", "cmd/snp-server-plugin"},
		uses:     []string{"spire/nodeattest", "appraise", "evidence", "evidence/kept", "refval", "snp", "snp/kds", "internal/bounded"}, within: true,
		never: []string{module + "/snp/snpdev", module + "/kms/..."},
	},
	{
		name:     "role: the owner who asks",
		packages: []string{"attest"},
		uses:     []string{"attest/attestapi", "appraise", "boot/bootlog", "evidence", "refval", "snp", "internal/bounded"},
		never:    []string{module + "/snp/snpdev", module + "/kms/..."},
	},
	{
		name:     "role: attestd",
		packages: []string{"attest/attestd", "cmd/attestd"},
		uses:     []string{"attest/attestapi", "boot/bootlog", "evidence", "snp/snpdev", "internal/bounded"}, within: true,
		never: []string{module + "/appraise", module + "/snp/kds", module + "/refval", module + "/kms/..."},
	},
	{
		name:     "role: the key server",
		packages: []string{"kms/...", "cmd/rootvouch-kms"},
		uses:     []string{"appraise", "evidence", "evidence/kept", "refval", "snp", "snp/kds", "internal/command", "internal/durable"}, within: true,
		never: []string{module + "/snp/snpdev", module + "/spire/nodeattest/..."},
	},
	{
		name:     "role: a root's file tree",
		packages: []string{"image/rootfs"},
		uses:     []string{"image/erofs"},
		pure:     true, neverDirect: outside,
	},
	{
		name:     "role: readers of roots",
		packages: []string{"image/intake"},
		uses:     []string{"image/rootfs", "image/erofs", "image/ext4", "internal/bounded", "internal/filekind"},
		never:    []string{"net", "net/http"},
	},
	{
		name:     "role: what a root does not say by itself",
		packages: []string{"image/survey"},
		uses:     []string{"image/rootfs", "image/erofs"},
		pure:     true, neverDirect: outside,
	},
	{
		name:     "role: disk images",
		packages: []string{"image"},
		uses:     []string{"image/intake", "image/rootfs", "image/survey", "luks2", "verity", "xts", "internal/durable", "internal/filekind"},
		never:    []string{"net", "net/http", "github.com/spiffe/..."},
	},
	{
		name:     "role: initramfs",
		packages: []string{"initramfs/..."},
		uses:     []string{"boot/bootconfig", "boot/cmdline", "internal/bounded", "internal/durable", "internal/filekind"}, within: true,
		never: []string{"net/http", "github.com/spiffe/..."},
	},
	{
		name:     "role: platforms",
		packages: []string{"platform", "platform/asp", "platform/export"},
		uses:     []string{"gate", "gate/program", "snp", "snp/firmware", "snp/launch", "snp/launch/idblock", "snp/emuchain", "internal/bounded", "internal/durable", "internal/shell"}, within: true,
		never: []string{"github.com/spiffe/...", module + "/appraise"},
	},
	{
		name:     "role: the owner's side of SPIRE",
		packages: []string{"spire/trust", "spire/conf", "spire/admin"},
		uses:     []string{"spire/agentconf", "spire/nodeattest", "refval", "snp", "internal/bounded", "internal/durable"}, within: true,
		never: []string{module + "/kms/...", module + "/appraise"},
	},
	{
		name:     "role: releases of a VM",
		packages: []string{"release"},
		uses: []string{"boot/bootconfig", "boot/cmdline", "gate", "image", "image/survey", "initramfs", "initramfs/kmod", "internal/bounded", "internal/durable", "kms/adminapi", "luks2",
			"internal/bytesize", "refval", "snp", "snp/firmware", "snp/launch", "volume"},
		never: []string{"github.com/spiffe/...", "google.golang.org/grpc/...", module + "/appraise"},
	},

	// Wiring and commands.
	{
		name:     "wiring: the demo, which runs commands",
		packages: []string{"demo"},
		uses:     []string{"internal/durable", "internal/shell"},
		never:    []string{"github.com/spiffe/..."},
	},
	{
		name:     "commands: what the owner's commands share",
		packages: []string{"internal/cli"},
		uses:     []string{"appraise", "boot/bootconfig", "boot/cmdline", "evidence", "gate", "initramfs", "kms/keyapi", "refval", "snp", "snp/firmware", "snp/kds", "snp/launch", "snp/snphost", "uki", "internal/bounded", "internal/bytesize", "internal/command", "internal/durable", "internal/filekind"},
		never:    ownerNever,
	},
	{
		name:     "commands: the owner's commands, noun by noun",
		packages: []string{"internal/cli/..."},
		uses: []string{"internal/cli", "internal/bounded", "internal/command", "internal/durable", "internal/filekind", "internal/shell", "appraise", "attest", "boot/bootconfig", "boot/bootlog", "boot/cmdline", "boot/timeline", "demo", "evidence", "gate/...", "image/...",
			"initramfs/...", "kms/...", "luks2", "platform/...", "refval", "release", "snp/...", "uki", "volume"},
		never: ownerNever,
	},
	{
		name:     "commands: the owner's tool, a tree of commands",
		packages: []string{"cmd/rootvouch"},
		uses:     []string{"internal/cli/...", "internal/command"},
		never:    ownerNever,
	},
	{
		name:     "commands: the owner's tool, towards SPIRE",
		packages: []string{"cmd/rootvouch-spire"},
		uses:     []string{"boot/bootconfig", "internal/command", "pins", "refval", "spire/admin", "spire/conf", "spire/trust"},
		never:    []string{module + "/kms/...", module + "/appraise", module + "/boot"},
	},

	// Proof: what only tests use.
	{name: "proof: what a test needs", packages: []string{"internal/needs"}, never: network},
	{name: "proof: this table", packages: []string{"internal/arch"}, never: network},
	{
		name:     "proof: signers of true reports",
		packages: []string{"test/snptest", "test/snpdevtest"},
		uses:     []string{"snp", "snp/emuchain", "evidence", "refval"}, within: true,
	},
	{name: "proof: processes of tests", packages: []string{"test/childtest"}, never: network},
	{
		name:     "proof: VMs in tests",
		packages: []string{"test/vmtest", "test/vmtest/guest", "test/initramfstest", "test/acpitest"},
		uses:     []string{"gate", "gate/tables", "platform", "platform/asp", "internal/needs", "internal/shell", "initramfs/cpio", "boot/bootconfig", "boot/cmdline", "snp/snpdev"},
	},
	{name: "proof: libvirt's judgement", packages: []string{"test/libvirttest"}, uses: []string{"internal/needs", "test/childtest"}, never: network},
	{name: "proof: benchmarks of whole processes", packages: []string{"test/turns"}, never: network},
	{name: "proof: the whole chain", packages: []string{"test/..."}, uses: []string{"..."}},
}
