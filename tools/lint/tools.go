//go:build tools

// Package lint names the linter that scripts/lint builds.
package lint

import _ "github.com/golangci/golangci-lint/v2/cmd/golangci-lint"
