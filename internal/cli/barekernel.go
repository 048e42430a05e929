package cli

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/rootvouch/rootvouch/gate"
	"github.com/rootvouch/rootvouch/internal/command"
)

// BareKernelFlag is the flag that accepts a kernel that is not behind the gate.
const BareKernelFlag = "kernel-runs-host-code"

// BareKernel adds the flag to cmd.
func BareKernel(cmd *cobra.Command, accepted *bool) {
	cmd.Flags().BoolVar(accepted, BareKernelFlag, false, "accept a kernel that is not behind the gate: it runs ACPI code of its host, which can read and change the VM, and each verdict says so")
}

// HintBareKernel adds advice to an error about such a kernel.
func HintBareKernel(err error) error {
	if errors.Is(err, gate.ErrBare) || errors.Is(err, gate.ErrOther) {
		return command.WithHint(err, "rootvouch gate build puts a kernel behind the gate; --"+BareKernelFlag+" accepts it as it is")
	}
	return err
}
