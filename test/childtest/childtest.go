// Package childtest ties processes to the test binary that starts them.
package childtest

import (
	"os/exec"
	"syscall"
)

// Tied has the kernel kill the command's process when this one dies, whatever it dies of: a
// test binary that runs into its timeout has no time for t.Cleanup. Tied returns cmd.
//
// The death that counts is that of the thread that starts the process (prctl(2)). Go ends
// only threads whose goroutine ended while it was locked to them, so call Start or Run on a
// goroutine that is not locked to its thread.
func Tied(cmd *exec.Cmd) *exec.Cmd {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = new(syscall.SysProcAttr)
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	return cmd
}
