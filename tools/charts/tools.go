//go:build tools

// Package charts names the programs that judge deploy/: scripts/setup charts builds them.
package charts

import (
	_ "github.com/yannh/kubeconform/cmd/kubeconform"
	_ "helm.sh/helm/v3/cmd/helm"
)
