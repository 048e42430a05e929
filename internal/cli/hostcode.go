package cli

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/rootvouch/rootvouch/internal/command"
	"github.com/rootvouch/rootvouch/snp/firmware"
)

// HostCodeFlag is the flag that accepts a firmware that can run code of its host.
const HostCodeFlag = "firmware-runs-host-code"

// HostCode adds the flag to cmd.
func HostCode(cmd *cobra.Command, accepted *bool) {
	cmd.Flags().BoolVar(accepted, HostCodeFlag, false, "accept a firmware that may run code of its host before the kernel: the launch digest then vouches for nothing, and each verdict says so")
}

// HintHostCode adds advice to an error about such a firmware.
func HintHostCode(err error) error {
	if open, ok := errors.AsType[*firmware.OpenError](err); ok && open != nil {
		return command.WithHint(err, "rootvouch firmware harden closes the ways that it can; --"+HostCodeFlag+" accepts the rest")
	}
	return err
}
