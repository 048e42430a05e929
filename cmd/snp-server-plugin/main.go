// Command snp-server-plugin is the SPIRE server plugin amd_sev_snp, of the kind NodeAttestor.
// SPIRE starts it. docs/spire.md describes its configuration.
package main

import (
	"crypto/rand"
	"time"

	"github.com/spiffe/spire-plugin-sdk/pluginmain"
	nodeattestorv1 "github.com/spiffe/spire-plugin-sdk/proto/spire/plugin/server/nodeattestor/v1"
	configv1 "github.com/spiffe/spire-plugin-sdk/proto/spire/service/common/config/v1"

	"github.com/rootvouch/rootvouch/spire/nodeattest/server"
)

func main() {
	plugin := server.New(time.Now, rand.Reader)
	pluginmain.Serve(
		nodeattestorv1.NodeAttestorPluginServer(plugin),
		configv1.ConfigServiceServer(plugin),
	)
}
