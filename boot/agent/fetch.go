package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/rootvouch/rootvouch/boot/bootconfig"
	"github.com/rootvouch/rootvouch/boot/process"
	"github.com/rootvouch/rootvouch/kms/keyapi"
	"github.com/rootvouch/rootvouch/pins"
	"golang.org/x/sys/unix"
)

// fetchLogPath is the file for fetchkey's output, which says why it failed.
const fetchLogPath = bootconfig.AgentDataDir + "/fetchkey.log"

// FetchKey asks for the key of the root's disk.
func (a *Agent) FetchKey(ctx context.Context, disk pins.UUID) (*keyapi.Released, error) {
	return a.fetch(ctx, disk, checkRoot)
}

// FetchVolume asks for the key of a volume that is written.
func (a *Agent) FetchVolume(ctx context.Context, disk pins.UUID) (*keyapi.Released, error) {
	return a.fetch(ctx, disk, checkVolume)
}

func (a *Agent) fetch(ctx context.Context, disk pins.UUID, check func(r *keyapi.Released, asked pins.UUID, c bootconfig.Config) error) (*keyapi.Released, error) {
	release, err := runFetchkey(ctx, a.table, disk)
	if err != nil {
		if line := a.lastError(); line != "" {
			return nil, fmt.Errorf("%w (SPIRE agent: %s)", err, line)
		}
		return nil, err
	}
	if err := check(release, disk, a.config); err != nil {
		release.Wipe()
		return nil, err
	}
	return release, nil
}

// checkRelease compares the reply with the request and with the measured
// configuration.
func checkRelease(r *keyapi.Released, asked pins.UUID, c bootconfig.Config) error {
	switch {
	case r.Header.DiskUUID != asked:
		return fmt.Errorf("checking header pin of the release: disk_uuid is %s, want %s, which was asked for", r.Header.DiskUUID, asked)
	case r.KMSID != c.KMS.SPIFFEID:
		return fmt.Errorf("checking release: KMS is %q, want %q", r.KMSID, c.KMS.SPIFFEID)
	}
	return nil
}

// checkRoot compares the reply about the root's disk with the measured pins.
func checkRoot(r *keyapi.Released, asked pins.UUID, c bootconfig.Config) error {
	if err := checkRelease(r, asked, c); err != nil {
		return err
	}
	switch {
	case c.Disk.Header != nil && r.Header != *c.Disk.Header:
		return fmt.Errorf("checking header pin of the release: luks2_header_sha256 is %s, want %s of the boot configuration",
			r.Header.HeaderSHA256, c.Disk.Header.HeaderSHA256)
	case r.Volume != nil:
		return errors.New("checking release: it is of a volume that is written, want that of the root's disk")
	}
	return nil
}

// checkVolume refuses a release without the fields of a volume: PID 1 would know
// nothing about the volume's contents.
func checkVolume(r *keyapi.Released, asked pins.UUID, c bootconfig.Config) error {
	if err := checkRelease(r, asked, c); err != nil {
		return err
	}
	if r.Volume == nil {
		return errors.New("checking release: it is of a disk, want that of a volume that is written: register it as one")
	}
	return nil
}

// runFetchkey runs fetchkey and reads its reply from a pipe. It uses the reply only
// if fetchkey ends with status 0.
func runFetchkey(ctx context.Context, table *process.Table, disk pins.UUID) (*keyapi.Released, error) {
	out, err := os.OpenFile(fetchLogPath, os.O_RDWR|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening fetchkey's log: %w", err)
	}
	defer out.Close()
	r, w, err := keyPipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	fetchkey, err := table.Start(process.Command{
		Path:  bootconfig.FetchkeyPath,
		Argv:  []string{bootconfig.FetchkeyPath, "-boot-config", bootconfig.Path, "-disk-uuid", disk.String()},
		Out:   out,
		Extra: []int{w},
	})
	unix.Close(w)
	if err != nil {
		return nil, err
	}
	defer fetchkey.Kill()
	if deadline, ok := ctx.Deadline(); ok {
		if err := r.SetReadDeadline(deadline); err != nil {
			return nil, fmt.Errorf("bounding the wait for the key: %w", err)
		}
	}
	return readRelease(r, make([]byte, keyapi.MaxReleasedSize+1), func() error {
		status, err := fetchkey.Wait(ctx)
		if err != nil {
			return errors.New("running fetchkey: it did not end in time")
		}
		if status != 0 {
			return fmt.Errorf("running fetchkey: %s", strings.TrimPrefix(process.LastLine(out, process.Describe(status)), "fetchkey: "))
		}
		return nil
	})
}

// readRelease reads a release from r into buf, which it always wipes. ended waits for
// the writer of r; the release counts only if ended returns nil.
func readRelease(r io.Reader, buf []byte, ended func() error) (*keyapi.Released, error) {
	defer clear(buf)
	n, err := readReply(r, buf)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, errors.New("running fetchkey: got no reply in time")
	}
	if err != nil {
		return nil, fmt.Errorf("reading the reply of fetchkey: %w", err)
	}
	if err := ended(); err != nil {
		return nil, err
	}
	release, err := keyapi.ParseReleased(buf[:n])
	if err != nil {
		return nil, fmt.Errorf("reading the reply of fetchkey: %w", err)
	}
	return release, nil
}

// keyPipe returns a pipe whose read end honours deadlines and whose write end is
// a bare descriptor for the child.
func keyPipe() (r *os.File, w int, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, 0, fmt.Errorf("making a pipe for the key: %w", err)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		return nil, 0, fmt.Errorf("making a pipe for the key: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "key pipe"), fds[1], nil
}

// readReply reads to the end of r into buf, which is never grown, so that no
// copy of the key is left behind. A reply that fills buf is too long.
func readReply(r io.Reader, buf []byte) (int, error) {
	n, err := io.ReadFull(r, buf)
	switch {
	case err == nil:
		return 0, fmt.Errorf("got more than %d bytes", len(buf)-1)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return n, nil
	}
	return 0, err
}

// End kills the SPIRE agent, its plugins and every other process, and removes the
// files that they wrote, the agent's private key among them. The agent keeps no
// state that outlives it, so a kill loses nothing.
func (a *Agent) End(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := a.table.KillAll(ctx); err != nil {
		return err
	}
	if err := a.log.Close(); err != nil {
		return fmt.Errorf("closing the SPIRE agent's log: %w", err)
	}
	if err := os.RemoveAll(bootconfig.AgentDataDir); err != nil {
		return fmt.Errorf("removing the SPIRE agent's data: %w", err)
	}
	return nil
}
