// Package commands compares the command trees of all programs with each other.
package commands
