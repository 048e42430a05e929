// Package e2e boots VMs through the whole chain, stock SPIRE and key server
// included, and checks the successes and the refusals.
package e2e
