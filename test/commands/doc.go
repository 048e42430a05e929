// Package commands holds the trees of commands of all programs against each other.
package commands
