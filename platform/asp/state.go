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

// The files of a chip that is stored in a directory.
const (
	stateFile = "chain.pem" // certificates and private keys, mode 0600

	// CollateralDir is the subdirectory for verifiers. It holds no private key.
	CollateralDir = "collateral"

	arkFile = "ark.der"
	askFile = "ask.der"
	crlFile = "ark.crl"
)

// Create makes dir with mode 0700, and writes the chip and the collateral to it. If
// dir exists, Create returns an error that matches os.ErrExist, because reference
// values may name the root of trust in dir. If Create fails, it leaves nothing
// behind.
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

// Open reads the chip that Create wrote to dir. It refuses a file of keys that
// users other than its owner can read. Open changes nothing. If the chip is
// missing, the error matches os.ErrNotExist.
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

// maxState bounds the file of a stored chip in bytes. A genuine file has about
// 20000.
const maxState = 64 << 10

// WriteCollateral writes the verifier's collateral to dir: the ARK and ASK as DER,
// and a fresh CRL. It makes dir if it is missing, and replaces each existing file
// whole or not at all.
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
