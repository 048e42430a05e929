package bootconfig

// Files of the initramfs. `rootvouch initramfs build` puts them there, and PID 1
// relies on them. SPIRE's unix workload attestor sees the same paths, so
// registration entries name them as well.
const (
	Path            = "/etc/rootvouch/boot.json" // this configuration
	ModulesPath     = "/etc/rootvouch/modules"   // paths of kernel modules, one a line, in load order
	ModulesDir      = "/lib/modules"             // where the modules lie, decompressed, as <name>.ko
	InitPath        = "/init"                    // PID 1 (cmd/init)
	AgentPath       = "/bin/spire-agent"         // the stock SPIRE agent
	AgentPluginPath = "/bin/snp-agent-plugin"    // its node attestor (cmd/snp-agent-plugin)
	FetchkeyPath    = "/bin/fetchkey"            // asks the key server (cmd/fetchkey)
	AttestdPath     = "/bin/attestd"             // answers the owner after the switch (cmd/attestd)
)

// Files that PID 1 makes at run time.
const (
	AgentDataDir    = "/run/spire"            // the SPIRE agent's data, in memory only
	AgentConfigPath = "/run/spire/agent.conf" // the SPIRE agent's HCL, written from this configuration
	AgentSocketPath = "/run/spire/agent.sock" // the SPIFFE Workload API
	StateDir        = "/run/rootvouch"        // files that outlive the switch to the real root
	BootLogPath     = "/run/rootvouch/bootlog.json"
)

// The end of a booted system with volumes: systemd's shutdown changes its root to CloseRoot
// and executes CloseProgram there, which is PID 1's own program (systemd, "Initrd
// Interface"). CloseState lists the volumes to close.
const (
	CloseRoot    = "/run/initramfs"
	CloseProgram = "/shutdown"
	CloseState   = "/etc/rootvouch/volumes.json"
)
