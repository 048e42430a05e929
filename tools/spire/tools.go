//go:build tools

// Package spire names the two stock commands that scripts/setup builds.
package spire

import (
	_ "github.com/spiffe/spire/cmd/spire-agent"
	_ "github.com/spiffe/spire/cmd/spire-server"
)
