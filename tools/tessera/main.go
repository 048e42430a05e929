// Command tessera has another implementation of tlog-tiles judge a log in a directory: that
// of transparency-dev/tessera.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/api"
	"github.com/transparency-dev/tessera/client"
	"github.com/transparency-dev/tessera/fsck"
	"golang.org/x/mod/sumdb/note"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "tessera:", err)
		os.Exit(1)
	}
}

// run reads every leaf, tile and bundle of the log in a directory, and compares them with the
// root of its checkpoint.
func run(args []string) error {
	if len(args) != 2 {
		return errors.New("usage: tessera LOG-DIR LOG-KEY")
	}
	origin, _, _ := strings.Cut(args[1], "+")
	verifier, err := note.NewVerifier(args[1])
	if err != nil {
		return err
	}
	ctx, files := context.Background(), client.FileFetcher{Root: args[0]}
	checkpoint, _, _, err := client.FetchCheckpoint(ctx, files.ReadCheckpoint, verifier, origin)
	if err != nil {
		return err
	}
	check := fsck.New(origin, verifier, files, hashes, fsck.Opts{N: 1})
	if err := check.Check(ctx); err != nil {
		return err
	}
	// A proof by its client, of the first leaf in the newest tree.
	proofs, err := client.NewProofBuilder(ctx, checkpoint.Size, files.ReadTile)
	if err != nil {
		return err
	}
	if _, err := proofs.InclusionProof(ctx, 0); err != nil {
		return err
	}
	fmt.Printf("%d leaves, root %x\n", checkpoint.Size, checkpoint.Hash)
	return nil
}

// hashes are those of the leaves in a bundle.
func hashes(bundle []byte) ([][]byte, error) {
	var entries api.EntryBundle
	if err := entries.UnmarshalText(bundle); err != nil {
		return nil, err
	}
	var all [][]byte
	for _, leaf := range entries.Entries {
		all = append(all, rfc6962.DefaultHasher.HashLeaf(leaf))
	}
	return all, nil
}
