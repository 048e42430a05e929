// Rootvouch-kek-pkcs11 keeps the key server's key-encryption key in a PKCS #11 token.
//
// It is a provider program (docs/spec/kek.md): rootvouch-kms starts it and asks it to seal and to
// open. A module of its own, because a token's library is C.
package main

import (
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/rootvouch/rootvouch/kms/kek/provider"
)

const usage = `usage: rootvouch-kek-pkcs11 --module LIBRARY --token LABEL --key LABEL --pin-file FILE [--create]

Keeps the key-encryption key of rootvouch-kms in a PKCS #11 token: an AES key of 256 bits that
never leaves it. The server starts this program, with "kek": {"program": [...]} in its
configuration. With --create the key is made in the token, once, and the program ends.

`

func main() {
	if err := run(os.Args[1:], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "rootvouch-kek-pkcs11: error:", err)
		os.Exit(1)
	}
}

func run(args []string, in io.Reader, out io.Writer) error {
	flags := flag.NewFlagSet("rootvouch-kek-pkcs11", flag.ContinueOnError)
	flags.SetOutput(os.Stderr)
	flags.Usage = func() {
		fmt.Fprint(os.Stderr, usage)
		flags.PrintDefaults()
	}
	module := flags.String("module", "", "the token's PKCS #11 library")
	tokenLabel := flags.String("token", "", "label of the token")
	keyLabel := flags.String("key", "", "label of the key in it")
	pinFile := flags.String("pin-file", "", "file with the user's PIN; only its owner may read it")
	create := flags.Bool("create", false, "make the key, and end")
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return nil
	} else if err != nil {
		return err
	}
	if *module == "" || *tokenLabel == "" || *keyLabel == "" || *pinFile == "" || flags.NArg() > 0 {
		return errors.New("want --module, --token, --key and --pin-file, and no arguments")
	}
	pin, err := readPIN(*pinFile)
	if err != nil {
		return err
	}
	t, err := open(*module, *tokenLabel, pin)
	if err != nil {
		return err
	}
	defer t.close()
	if *create {
		if err := t.create(*keyLabel); err != nil {
			return err
		}
		_, err := fmt.Fprintf(out, "made key %q in token %q\n", *keyLabel, *tokenLabel)
		return err
	}
	if err := t.find(*keyLabel); err != nil {
		return err
	}
	return provider.Serve(in, out, t)
}

// readPIN reads a PIN from a file that nobody else can read.
func readPIN(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	if info.Mode().Perm()&0o077 != 0 {
		return "", fmt.Errorf("%s has mode %04o, want none of 0077", path, info.Mode().Perm())
	}
	data, err := io.ReadAll(io.LimitReader(f, 1024))
	if err != nil {
		return "", err
	}
	pin := strings.TrimRight(string(data), "\r\n")
	if pin == "" {
		return "", fmt.Errorf("%s is empty", path)
	}
	return pin, nil
}

// random is where nonces come from.
var random = rand.Reader
