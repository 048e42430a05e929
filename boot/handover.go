package boot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/rootvouch/rootvouch/boot/bootconfig"
	"github.com/rootvouch/rootvouch/boot/bootlog"
	"golang.org/x/sys/unix"
)

// attestdListen is where attestd answers in the booted system.
const attestdListen = ":8444"

// attestdPatience bounds the time that attestd needs to get there.
const attestdPatience = 30 * time.Second

// Files of /run that the booted system finds, besides the boot log.
const (
	resolvConfPath  = bootconfig.StateDir + "/resolv.conf"
	attestdLogPath  = bootconfig.StateDir + "/attestd.log"
	networkUnitPath = "/run/systemd/network/10-rootvouch.network"
)

// handOver writes what the booted system gets, makes its root the root, and
// starts attestd there. A process that was started before would keep the old
// root, without /sys and /dev; so attestd is started after, from a descriptor
// that is held since before, because its file is then out of reach.
func (m *machine) handOver(context.Context) (string, error) {
	if err := m.writeState(); err != nil {
		return "", err
	}
	var err error
	if m.attestdFile, err = os.Open(bootconfig.AttestdPath); err != nil {
		return "", fmt.Errorf("holding attestd: %w", err)
	}
	if m.initramfs, err = os.Open("/"); err != nil {
		return "", fmt.Errorf("holding the initramfs: %w", err)
	}
	if err := enterRoot(); err != nil {
		return "", err
	}
	if err := m.linkResolvConf(); err != nil {
		return "", err
	}
	if err := m.startAttestd(); err != nil {
		return "", err
	}
	return fmt.Sprintf("boot log at %s, attestd is process %d on %s", bootconfig.BootLogPath, m.attestd.pid, attestdListen), nil
}

// writeState writes the files of /run.
func (m *machine) writeState() error {
	log, err := m.bootLog().Encode()
	if err != nil {
		return err
	}
	for path, content := range map[string][]byte{
		bootconfig.BootLogPath: log,
		resolvConfPath:         m.network.resolvConf(),
		networkUnitPath:        m.network.networkUnit(m.config.Network.Mode),
	} {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return fmt.Errorf("writing %s: %w", path, err)
		}
		if err := os.WriteFile(path, content, 0o644); err != nil {
			return fmt.Errorf("writing %s: %w", path, err)
		}
	}
	return nil
}

// bootLog returns the log of the steps that are finished by now.
func (m *machine) bootLog() bootlog.Log {
	return bootlog.Log{
		Version:       bootlog.Version,
		DiskUUID:      m.release.Header.DiskUUID,
		HeaderSHA256:  m.release.Header.HeaderSHA256,
		RootHash:      m.config.Disk.RootHash,
		KeyGeneration: m.release.Generation,
		KMSSPIFFEID:   m.release.KMSID,
		Verification:  m.config.Verification,
		Steps:         m.steps,
	}
}

// enterRoot moves the kernel's filesystems into the new root, and the new root
// over the old one. configfs hangs below /sys and moves along.
func enterRoot() error {
	for _, dir := range []string{"/proc", "/sys", "/dev", "/run"} {
		target := newRoot + dir
		if err := makeMountPoint(target); err != nil {
			return fmt.Errorf("moving %s: %w", dir, err)
		}
		if err := unix.Mount(dir, target, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("moving %s: %w", dir, err)
		}
	}
	if err := unix.Chdir(newRoot); err != nil {
		return fmt.Errorf("entering the root filesystem: %w", err)
	}
	if err := unix.Mount(newRoot, "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("moving the root filesystem over the initramfs: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("changing root: %w", err)
	}
	return unix.Chdir("/")
}

// makeMountPoint makes a directory where there is none. It follows no symbolic
// link, which would lead back into the initramfs.
func makeMountPoint(path string) error {
	if err := os.Mkdir(path, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("it is %s in the root filesystem, want a directory", info.Mode().Type())
	}
	return nil
}

// linkResolvConf gives the booted system name servers when its image has no
// word of its own about them. A root without /etc has no use for them.
func (m *machine) linkResolvConf() error {
	err := os.Symlink(resolvConfPath, "/etc/resolv.conf")
	if err != nil && !errors.Is(err, fs.ErrExist) && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("linking resolv.conf: %w", err)
	}
	return nil
}

// startAttestd starts attestd in a session of its own. The @ in its argv[0]
// tells systemd to spare it when it ends everything else (systemd, "Storage
// Daemons for the Root File System").
func (m *machine) startAttestd() error {
	log, err := os.OpenFile(attestdLogPath, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return fmt.Errorf("opening attestd's log: %w", err)
	}
	m.attestdLog = log
	m.attestd, err = m.children.start(command{
		path: fmt.Sprintf("/proc/self/fd/%d", m.attestdFile.Fd()),
		argv: []string{"@attestd",
			"-listen", attestdListen,
			"-boot-log", bootconfig.BootLogPath,
			"-device", m.config.ReportDevice},
		out: log,
	})
	if err != nil {
		return err
	}
	return m.attestdFile.Close()
}

// waitForAttestd waits until attestd takes connections: a guest that cannot give
// its owner evidence does not start.
func (m *machine) waitForAttestd(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, attestdPatience)
	defer cancel()
	for {
		conn, err := net.DialTimeout("tcp", "127.0.0.1"+attestdListen, time.Second)
		if err == nil {
			_ = conn.Close() // nothing was sent
			return m.attestdLog.Close()
		}
		select {
		case status := <-m.attestd.end:
			return fmt.Errorf("waiting for attestd: %s", strings.TrimPrefix(lastLine(m.attestdLog, "it ended with "+describe(status)), "attestd: "))
		case <-time.After(poll):
		case <-ctx.Done():
			return fmt.Errorf("waiting for attestd: %w", err)
		}
	}
}
