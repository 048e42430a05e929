// Package emulated holds what every command says of the emulated platform.
package emulated

// Warning is that a VM, a root of trust or evidence is emulated: the host holds every
// key of it.
const Warning = "emulated: NOT CONFIDENTIAL"
