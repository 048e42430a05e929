// Package e2e boots VMs through the whole chain, stock SPIRE and key server
// included, and holds the refusals to what they must be.
package e2e
