// Package docs checks the documents: their form, and that each claim of
// docs/THREATS.md names tests that exist and that `make test` runs.
package docs
