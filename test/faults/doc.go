// Package faults runs key servers as processes, under load, and makes them fail as
// machines do. A separate program decides whether a key was lost or released twice.
// It reads the guests' results and the log.
package faults
