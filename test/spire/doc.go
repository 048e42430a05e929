// Package spire tests the plugins under stock SPIRE, server and agent, with a
// software AMD-SP that signs true reports.
package spire
