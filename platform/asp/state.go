package asp

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/rootvouch/rootvouch/internal/bounded"
	"github.com/rootvouch/rootvouch/internal/durable"
	"github.com/rootvouch/rootvouch/snp/emuchain"
)

// The files of a chip that is kept in a directory.
const (
	stateFile = "chain.pem" // certificates and private keys, mode 0600

	// CollateralDir is the subdirectory for verifiers: no private key is in it.
	CollateralDir = "collateral"

	arkFile = "ark.der"
	askFile = "ask.der"
	crlFile = "ark.crl"
)

// Create keeps the chip in dir, which it makes with mode 0700, and writes the
// collateral. An existing dir is refused with an error that matches os.ErrExist:
// its root of trust may stand in somebody's reference values. When it fails it
// leaves nothing.
func (c *Chip) Create(dir string, rand io.Reader, now time.Time) error {
	state, err := c.chain.MarshalState()
	if err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return fmt.Errorf("creating a software AMD-SP: %w", err)
	}
	err = durable.Create(filepath.Join(dir, stateFile), state, 0o600)
	if err == nil {
		err = c.WriteCollateral(filepath.Join(dir, CollateralDir), rand, now)
	}
	if err != nil {
		os.RemoveAll(dir)
		return fmt.Errorf("creating a software AMD-SP: %w", err)
	}
	return nil
}

// Open takes up the chip that Create kept in dir, and nothing else: the keys
// must be readable by their owner only. It changes nothing. The error of a
// missing one matches os.ErrNotExist.
func Open(dir string) (*Chip, error) {
	path := filepath.Join(dir, stateFile)
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("opening a software AMD-SP: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("opening a software AMD-SP: %w", err)
	}
	if mode := info.Mode(); !mode.IsRegular() || mode.Perm()&0o077 != 0 {
		return nil, fmt.Errorf("opening a software AMD-SP: %s has mode %v, want a file that only its owner may read (0600)", path, mode)
	}
	state, err := bounded.Read(f, maxState)
	if err != nil {
		return nil, fmt.Errorf("opening a software AMD-SP: %s: %w", path, err)
	}
	chain, err := emuchain.ParseState(state)
	if err != nil {
		return nil, fmt.Errorf("opening a software AMD-SP: %s: %v", path, err)
	}
	c, err := fromChain(chain)
	if err != nil {
		return nil, fmt.Errorf("opening a software AMD-SP: %s: %v", path, err)
	}
	return c, nil
}

// maxState bounds the file of a kept chip in bytes; a true one has about 20000.
const maxState = 64 << 10

// WriteCollateral writes what a verifier needs besides the evidence into dir,
// made when it is missing: the ARK and ASK as DER, and a fresh CRL. Files there
// are replaced, each whole or not at all.
func (c *Chip) WriteCollateral(dir string, rand io.Reader, now time.Time) error {
	crl, err := c.CRL(rand, now)
	if err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("writing collateral: %w", err)
	}
	for _, f := range []struct {
		name string
		data []byte
	}{{arkFile, c.chain.ARK.Raw}, {askFile, c.chain.ASK.Raw}, {crlFile, crl}} {
		if err := durable.WriteFile(filepath.Join(dir, f.name), f.data, 0o644); err != nil {
			return fmt.Errorf("writing collateral: %w", err)
		}
	}
	return nil
}
