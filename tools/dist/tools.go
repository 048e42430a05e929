//go:build tools

// Package dist names the commands that scripts/dist builds.
package dist

import (
	_ "github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod"
	_ "github.com/goreleaser/nfpm/v2/cmd/nfpm"
)
