package cli

import (
	"fmt"
	"os"

	"github.com/rootvouch/rootvouch/boot/cmdline"
	"github.com/rootvouch/rootvouch/initramfs"
	"github.com/rootvouch/rootvouch/internal/bounded"
	"github.com/rootvouch/rootvouch/internal/command"
)

// maxInitramfs bounds an initramfs whose boot.json is read, in bytes.
const maxInitramfs = 2 << 30

// CommandLine returns the kernel command line that goes with an initramfs. PID 1
// powers off unless the kernel's line is that of boot.json, so an --append that
// differs is an error, and without one boot.json decides. An initramfs without a
// boot.json of ours takes the given line, and where none is given the line is empty;
// a line that would not reach the kernel whole is an error. A path that is no regular
// file is not read: it may give its bytes once only.
func CommandLine(path, given string, isGiven bool) (string, error) {
	own, ok, err := ownCommandLine(path)
	switch {
	case err != nil:
		return "", err
	case ok && isGiven && given != own:
		return "", command.Usage(fmt.Errorf("--append is %q, want the command line of %s's boot.json: %q; leave --append out, or make another boot.json", given, path, own))
	case ok:
		return own, nil
	case isGiven:
		if err := cmdline.CheckText(given); err != nil {
			return "", command.Usage(fmt.Errorf("--append: %w", err))
		}
	}
	return given, nil
}

func ownCommandLine(path string) (line string, ok bool, err error) {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() || info.Size() > maxInitramfs {
		return "", false, nil // the reader of the file says what is wrong
	}
	data, err := bounded.ReadFile(path, maxInitramfs)
	if err != nil {
		return "", false, err
	}
	line, ok, err = initramfs.CommandLine(data)
	if err != nil {
		return "", false, fmt.Errorf("%s: %w", path, err)
	}
	return line, ok, nil
}
