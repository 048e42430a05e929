// Package shell quotes commands for a POSIX shell.
package shell

import "strings"

// plain are the characters that need no quotes in any word of a command.
const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+./=:,@%"

// Quote returns a command line that a shell splits into exactly argv.
func Quote(argv ...string) string {
	words := make([]string, len(argv))
	for i, a := range argv {
		words[i] = a
		if a == "" || strings.Trim(a, plain) != "" {
			words[i] = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
	}
	return strings.Join(words, " ")
}
