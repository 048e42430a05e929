// Package emulated holds the warning that every command prints about the emulated
// platform.
package emulated

// NotConfidential says that the host holds every key of a VM, a root of trust or
// evidence.
const NotConfidential = "NOT CONFIDENTIAL"

// Warning says that a VM, a root of trust or evidence is emulated.
const Warning = "emulated: " + NotConfidential
