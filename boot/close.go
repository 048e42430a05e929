package boot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/rootvouch/rootvouch/boot/bootconfig"
	"github.com/rootvouch/rootvouch/boot/network"
	"github.com/rootvouch/rootvouch/boot/process"
	"github.com/rootvouch/rootvouch/boot/volumes"
	"github.com/rootvouch/rootvouch/kms/keyapi"
	"golang.org/x/sys/unix"
)

// Bounds of the close. If a bound passes, the volume counts as not closed. The
// machine goes down in either case.
const (
	closeLimit  = 60 * time.Second // for each volume, plus the time to read it
	commitLimit = 30 * time.Second // fetchkey's own is 20 s
	linkLimit   = 20 * time.Second // to configure the network again if the booted system took it down
)

// leaveClose writes the root directory in which the close of volumes runs: programs
// and settings of the initramfs, which are measured, and the list of volumes. Only
// root can read it. Without volumes leaveClose writes nothing.
func leaveClose(root string, link network.Network, written []*volumes.Opened) error {
	if len(written) == 0 {
		return nil
	}
	for _, dir := range []string{"", "bin", "dev", "etc", "etc/rootvouch", "oldroot", "proc", "run", "sys", "tmp"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o700); err != nil {
			return fmt.Errorf("preparing the end of the booted system: %w", err)
		}
	}
	for from, to := range map[string]string{
		bootconfig.InitPath: bootconfig.CloseProgram, bootconfig.FetchkeyPath: bootconfig.FetchkeyPath,
		bootconfig.Path: bootconfig.Path, "/etc/hosts": "/etc/hosts",
	} {
		if err := copyFile(from, filepath.Join(root, to)); err != nil {
			return fmt.Errorf("preparing the end of the booted system: %w", err)
		}
	}
	for path, content := range map[string][]byte{bootconfig.CloseState: volumes.Encode(written), "/etc/resolv.conf": link.ResolvConf()} {
		if err := os.WriteFile(filepath.Join(root, path), content, 0o600); err != nil {
			return fmt.Errorf("preparing the end of the booted system: %w", err)
		}
	}
	return nil
}

func copyFile(from, to string) error {
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, data, info.Mode().Perm())
}

// Close is PID 1 at the end of a booted system with volumes. systemd executes it
// after it has ended all units, with an argument such as "poweroff" that says how
// the machine goes down. Close closes the volumes, commits each close to the key
// server, and does not return. If a close fails, Close prints the reason, the
// volume counts as not closed, and the machine goes down nevertheless.
func Close(args []string) {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "shutdown: error: this is PID 1 at the end of a rootvouch guest, and not a command")
		os.Exit(2)
	}
	all, config, err := readClose()
	c := new(console)
	// The console may block, and so may every later call.
	end := func() { goDown(args) }
	bound := closeLimit + linkLimit
	for _, o := range all {
		bound += closeLimit + 2*commitLimit + time.Duration(o.Size/slowestTags)*time.Second
	}
	time.AfterFunc(bound, end)
	if openErr := c.open(); openErr == nil {
		c.decide(config.Console, false)
	}
	if err != nil {
		c.warn("close", err)
		end()
	}
	closer := closer{console: c, processes: process.New(), config: config}
	if _, err := guard(func() (struct{}, error) { return struct{}{}, closer.closeAll(all) }); err != nil {
		c.warn("close", err)
	}
	unix.Sync()
	end()
}

// readClose reads the list of volumes to close, and the boot configuration.
func readClose() ([]*volumes.Opened, bootconfig.Config, error) {
	for _, m := range []mount{
		{"proc", "/proc", "proc", 0, ""}, {"sysfs", "/sys", "sysfs", 0, ""}, {"devtmpfs", "/dev", "devtmpfs", 0, "mode=0755"},
	} {
		if entries, err := os.ReadDir(m.target); err == nil && len(entries) > 0 {
			continue // systemd has moved it here
		}
		if err := m.do(); err != nil {
			return nil, bootconfig.Config{}, err
		}
	}
	config, err := readConfig(context.Background())
	if err != nil {
		return nil, bootconfig.Config{}, err
	}
	data, err := os.ReadFile(bootconfig.CloseState)
	if err != nil {
		return nil, config, fmt.Errorf("reading the list of volumes: %w", err)
	}
	all, err := volumes.Decode(data)
	return all, config, err
}

// closer closes volumes when the machine goes down.
type closer struct {
	console   *console
	processes *process.Table
	config    bootconfig.Config
	linked    bool // the network was configured again
}

// closeAll closes the volumes, the last one first: its mount point may be below another's.
func (c *closer) closeAll(all []*volumes.Opened) error {
	ctx, cancel := context.WithTimeout(context.Background(), closeLimit)
	defer cancel()
	if err := c.processes.KillAll(ctx); err != nil {
		return err
	}
	var errs []error
	for _, o := range slices.Backward(all) {
		start := sinceKernel()
		if err := c.close(o); err != nil {
			errs = append(errs, fmt.Errorf("%s was not closed: %w", o.MountPoint, err))
			continue
		}
		c.console.step("close", fmt.Sprintf("%s, generation %d", o.MountPoint, o.Generation+1), sinceKernel()-start)
	}
	return errors.Join(errs...)
}

func (c *closer) close(o *volumes.Opened) error {
	ctx, cancel := context.WithTimeout(context.Background(), closeLimit+time.Duration(o.Size/slowestTags)*time.Second)
	defer cancel()
	commit, err := o.Close(ctx, volumeProgress(c.console))
	if err != nil {
		return err
	}
	err = c.send(o, commit)
	if err == nil || c.linked {
		return err
	}
	c.linked = true
	link, cancelLink := context.WithTimeout(context.Background(), linkLimit)
	defer cancelLink()
	if _, linkErr := network.Configure(link, c.config.Network); linkErr != nil {
		return errors.Join(err, linkErr)
	}
	return c.send(o, commit)
}

// commitLog is the file for fetchkey's output, which says why it failed.
const commitLog = "/tmp/fetchkey.log"

// send runs fetchkey, which commits the close of a volume to the key server.
func (c *closer) send(o *volumes.Opened, commit keyapi.CommitRequest) error {
	ctx, cancel := context.WithTimeout(context.Background(), commitLimit)
	defer cancel()
	if err := os.MkdirAll(filepath.Dir(commitLog), 0o700); err != nil {
		return err
	}
	out, err := os.OpenFile(commitLog, os.O_RDWR|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	p, err := c.processes.Start(process.Command{
		Path: bootconfig.FetchkeyPath,
		Argv: []string{bootconfig.FetchkeyPath, "-boot-config", bootconfig.Path, "-disk-uuid", o.UUID.String(), "-commit", string(keyapi.Encode(commit))},
		Out:  out,
	})
	if err != nil {
		return err
	}
	status, err := p.Wait(ctx)
	if err != nil {
		return errors.New("running fetchkey: it did not end in time")
	}
	if status != 0 {
		return fmt.Errorf("running fetchkey: %s", strings.TrimPrefix(process.LastLine(out, process.Describe(status)), "fetchkey: "))
	}
	return nil
}

// goDown powers off or reboots, as systemd was asked to, and does not return.
func goDown(args []string) {
	how := unix.LINUX_REBOOT_CMD_POWER_OFF
	if len(args) > 0 {
		switch args[0] {
		case "reboot", "kexec":
			how = unix.LINUX_REBOOT_CMD_RESTART
		case "halt":
			how = unix.LINUX_REBOOT_CMD_HALT
		}
	}
	err := unix.Reboot(how)
	os.Exit(int(errnoOf(err)))
}
