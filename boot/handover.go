package boot

import (
	"context"
	"crypto/rand"
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
	"github.com/rootvouch/rootvouch/boot/kernel"
	"github.com/rootvouch/rootvouch/boot/network"
	"github.com/rootvouch/rootvouch/boot/process"
	"github.com/rootvouch/rootvouch/boot/volumes"
	"github.com/rootvouch/rootvouch/boot/wait"
	"github.com/rootvouch/rootvouch/kms/keyapi"
	"golang.org/x/sys/unix"
)

// attestdListen is where attestd answers in the booted system.
const attestdListen = ":8444"

// Files of /run that the booted system finds, besides the boot log.
const (
	resolvConfPath  = bootconfig.StateDir + "/resolv.conf"
	attestdLogPath  = bootconfig.StateDir + "/attestd.log"
	networkUnitPath = "/run/systemd/network/10-rootvouch.network"
)

// system is the booted system before its init runs.
type system struct {
	initramfs *os.File // the old root directory
	attestd   *process.Process
	log       *os.File // attestd's
	sealed    string   // a part of its line; may be empty
}

func (s *system) String() string {
	return fmt.Sprintf("%sboot log at %s, attestd is process %d on %s", s.sealed, bootconfig.BootLogPath, s.attestd.PID, attestdListen)
}

// handOver writes the files for the booted system, makes its root the root, and
// starts attestd there. A process that starts before the change of root would keep
// the old root, without /sys and /dev. So handOver starts attestd after the change.
// The path of its program is out of reach by then, so handOver opens the program
// before the change and executes the descriptor.
//
// First of all, handOver closes the kernel to further devices, unless boot.json
// leaves them to the booted system.
func handOver(processes *process.Table, config bootconfig.Config, link network.Network, disk string, written []*volumes.Opened, log bootlog.Log) (*system, error) {
	s := new(system)
	own := config.Devices == bootconfig.DevicesOwn
	if own {
		detached, err := kernel.Seal("/", append(volumes.Disks(written), disk)...)
		if err != nil {
			return nil, err
		}
		s.sealed = fmt.Sprintf("no further modules and devices, %d other disks taken away; ", detached)
	}
	if err := writeState(link, log); err != nil {
		return nil, err
	}
	if err := barOrders("/run", own, config.ConsoleLogin); err != nil {
		return nil, err
	}
	if err := leaveClose(bootconfig.CloseRoot, link, written); err != nil {
		return nil, err
	}
	program, err := os.Open(bootconfig.AttestdPath)
	if err != nil {
		return nil, fmt.Errorf("holding attestd: %w", err)
	}
	defer program.Close()
	if s.initramfs, err = os.Open("/"); err != nil {
		return nil, fmt.Errorf("holding the initramfs: %w", err)
	}
	if err := enterRoot(); err != nil {
		return nil, err
	}
	if err := linkResolvConf(); err != nil {
		return nil, err
	}
	if err := writeMachineID("/etc/machine-id", rand.Reader); err != nil {
		return nil, err
	}
	if err := s.startAttestd(processes, program, config.ReportDevice); err != nil {
		return nil, err
	}
	return s, nil
}

// writeState writes the files of /run.
func writeState(link network.Network, log bootlog.Log) error {
	text, err := log.Encode()
	if err != nil {
		return err
	}
	for path, content := range map[string][]byte{
		bootconfig.BootLogPath: text,
		resolvConfPath:         link.ResolvConf(),
		networkUnitPath:        link.Unit(),
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

// bootLog returns the log of the steps that have finished so far.
func bootLog(config bootconfig.Config, release *keyapi.Released, written []*volumes.Opened, steps []bootlog.Step) bootlog.Log {
	return bootlog.Log{
		Version:       bootlog.Version,
		DiskUUID:      release.Header.DiskUUID,
		HeaderSHA256:  release.Header.HeaderSHA256,
		RootHash:      config.Disk.RootHash,
		KeyGeneration: release.Generation,
		KMSSPIFFEID:   release.KMSID,
		Verification:  config.Verification,
		Volumes:       volumes.Log(written),
		Steps:         steps,
	}
}

// enterRoot moves the kernel's filesystems into the new root, and the new root over
// the old one. configfs is mounted below /sys and moves with it.
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

// linkResolvConf gives the booted system name servers if its image has no
// resolv.conf. A root without /etc gets none.
func linkResolvConf() error {
	err := os.Symlink(resolvConfPath, "/etc/resolv.conf")
	if err != nil && !errors.Is(err, fs.ErrExist) && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("linking resolv.conf: %w", err)
	}
	return nil
}

// startAttestd starts attestd in a session of its own. The @ in its argv[0] tells
// systemd to spare attestd when it kills all other processes (systemd, "Storage
// Daemons for the Root File System").
func (s *system) startAttestd(processes *process.Table, program *os.File, reportDevice string) error {
	log, err := os.OpenFile(attestdLogPath, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return fmt.Errorf("opening attestd's log: %w", err)
	}
	s.log = log
	s.attestd, err = processes.Start(process.Command{
		Path: fmt.Sprintf("/proc/self/fd/%d", program.Fd()),
		Argv: []string{"@attestd",
			"-listen", attestdListen,
			"-boot-log", bootconfig.BootLogPath,
			"-device", reportDevice},
		Out: log,
	})
	return err
}

// waitForAttestd waits until attestd takes connections. A guest that cannot give
// its owner evidence does not start.
func (s *system) waitForAttestd(ctx context.Context) error {
	for {
		conn, err := net.DialTimeout("tcp", "127.0.0.1"+attestdListen, time.Second)
		if err == nil {
			_ = conn.Close() // nothing was sent
			return s.log.Close()
		}
		select {
		case status := <-s.attestd.End:
			return fmt.Errorf("waiting for attestd: %s", strings.TrimPrefix(process.LastLine(s.log, "it ended with "+process.Describe(status)), "attestd: "))
		case <-time.After(wait.Poll):
		case <-ctx.Done():
			return fmt.Errorf("waiting for attestd: %w", err)
		}
	}
}
