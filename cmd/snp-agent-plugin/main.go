// Command snp-agent-plugin is the SPIRE agent plugin amd_sev_snp, of the kind NodeAttestor.
// SPIRE starts it. docs/spire.md describes its configuration.
package main

import (
	"github.com/spiffe/spire-plugin-sdk/pluginmain"
	nodeattestorv1 "github.com/spiffe/spire-plugin-sdk/proto/spire/plugin/agent/nodeattestor/v1"
	configv1 "github.com/spiffe/spire-plugin-sdk/proto/spire/service/common/config/v1"

	"github.com/rootvouch/rootvouch/spire/nodeattest/agent"
)

func main() {
	plugin := new(agent.Plugin)
	pluginmain.Serve(
		nodeattestorv1.NodeAttestorPluginServer(plugin),
		configv1.ConfigServiceServer(plugin),
	)
}
