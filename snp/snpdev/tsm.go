package snpdev

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/rootvouch/rootvouch/internal/bounded"
	"github.com/rootvouch/rootvouch/snp"
)

const (
	tsmProvider = "sev_guest"

	// tsmWrites is the number of attributes that a request writes. Each write adds
	// one to the entry's generation (Linux,
	// Documentation/ABI/testing/configfs-tsm).
	tsmWrites = 2
)

func openTSM(dir string) (*Device, error) {
	if err := present(dir, "want Linux 6.7 or later with CONFIG_TSM_REPORTS, the modules tsm and sev-guest, and configfs mounted"); err != nil {
		return nil, err
	}
	return &Device{kind: ConfigfsTSM, ask: tsm{dir, os.Mkdir, os.Remove, readAttribute, writeAttribute}.ask}, nil
}

// tsm asks through configfs (Linux, Documentation/ABI/testing/configfs-tsm). A new
// directory below "report" is a request, and its files hold the answer.
type tsm struct {
	dir    string
	mkdir  func(path string, perm os.FileMode) error
	remove func(path string) error
	read   func(path string, limit int) ([]byte, error)
	write  func(path string, value []byte) error
}

func (t tsm) ask(request snp.ReportRequest) (got answer, err error) {
	// The name is random, so no other process uses the same entry.
	entry := filepath.Join(t.dir, "rootvouch-"+rand.Text())
	if err := t.mkdir(entry, 0o700); err != nil {
		if errors.Is(err, unix.ENXIO) {
			return answer{}, fmt.Errorf("making a question in %s: %w: no module gives reports to configfs-tsm, want sev-guest loaded in a SEV-SNP guest", t.dir, ErrNotFound)
		}
		return answer{}, fmt.Errorf("making a question in %s: %w", t.dir, err)
	}
	defer func() {
		if failed := t.remove(entry); failed != nil && err == nil {
			got, err = answer{}, fmt.Errorf("removing %s: %w", entry, failed)
		}
	}()
	provider, err := t.read(filepath.Join(entry, "provider"), 64)
	if err != nil {
		return answer{}, err
	}
	if name := strings.TrimSpace(string(provider)); name != tsmProvider {
		return answer{}, fmt.Errorf("provider is %q, want %q", name, tsmProvider)
	}
	before, err := t.generation(entry)
	if err != nil {
		return answer{}, err
	}
	if err := t.write(filepath.Join(entry, "privlevel"), []byte(strconv.FormatUint(uint64(request.VMPL), 10))); err != nil {
		return answer{}, err
	}
	if err := t.write(filepath.Join(entry, "inblob"), request.ReportData[:]); err != nil {
		return answer{}, err
	}
	if got.report, err = t.read(filepath.Join(entry, "outblob"), snp.ReportSize); err != nil {
		return answer{}, err
	}
	if got.certificates, err = t.read(filepath.Join(entry, "auxblob"), maxCertificates); err != nil {
		return answer{}, err
	}
	// If another process wrote to this entry, outblob and auxblob may belong to
	// another request, or to two.
	after, err := t.generation(entry)
	if err != nil {
		return answer{}, err
	}
	if after != before+tsmWrites {
		return answer{}, fmt.Errorf("generation of %s is %d, want %d: another process wrote to it", entry, after, before+tsmWrites)
	}
	return got, nil
}

func (t tsm) generation(entry string) (uint64, error) {
	text, err := t.read(filepath.Join(entry, "generation"), 32)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("reading generation: %v", err)
	}
	return n, nil
}

// writeAttribute writes value in one write, as configfs requires.
func writeAttribute(path string, value []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.Write(value)
	if closed := f.Close(); err == nil { // configfs delivers a binary attribute at close
		err = closed
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

// readAttribute reads at most limit bytes. A longer attribute is an error.
func readAttribute(path string, limit int) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	value, err := bounded.Read(f, int64(limit))
	switch {
	case errors.Is(err, unix.EIO) || errors.Is(err, unix.ENXIO):
		return nil, fmt.Errorf("reading %s: %w: the AMD-SP or the host refused the request", path, err)
	case err != nil:
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	return value, nil
}
