// Package faults runs key servers as processes, under load, and does to them what machines
// do. Whether a key was lost or released twice is said by a program of its own, which
// reads what the guests say that they got, and the log.
package faults
