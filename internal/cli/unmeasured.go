package cli

import (
	"github.com/spf13/cobra"

	"github.com/rootvouch/rootvouch/internal/command"
	"github.com/rootvouch/rootvouch/refval"
)

// UnmeasuredKernelFlag is the flag that accepts a measurement that covers no kernel.
const UnmeasuredKernelFlag = "unmeasured-kernel"

// UnmeasuredKernel adds the flag to cmd.
func UnmeasuredKernel(cmd *cobra.Command, accepted *bool) {
	cmd.Flags().BoolVar(accepted, UnmeasuredKernelFlag, false, "accept a measurement that covers no kernel: the host then chooses the kernel, and each verdict says so")
}

// CheckKernels refuses reference values that accept an unmeasured kernel, unless the flag
// accepts that.
func CheckKernels(values refval.Values, accepted bool) error {
	if err := values.CheckKernels(); err != nil && !accepted {
		return command.WithHint(err, "measure with --kernel; --"+UnmeasuredKernelFlag+" accepts any kernel")
	}
	return nil
}
