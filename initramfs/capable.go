package initramfs

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/rootvouch/rootvouch/initramfs/kmod"
)

// panicOnError is the option of dm-verity with which a failed read of the root ends
// the VM (Linux, drivers/md/dm-verity-target.c). The module contains the option as
// a string. panicOnErrorSince is the first kernel that has it.
const panicOnError = "panic_on_error"

var panicOnErrorSince = [2]int{6, 12}

// checkKernel refuses a kernel with which PID 1 would refuse to boot, as far as its
// modules and its version show.
func checkKernel(version string, s kmod.Selection) error {
	able := false
	if i := slices.IndexFunc(s.Modules, func(m kmod.Module) bool { return m.Name == "dm_verity" }); i >= 0 {
		able = bytes.Contains(s.Modules[i].Data, []byte(panicOnError+"\x00"))
	} else {
		able = atLeast(version, panicOnErrorSince)
	}
	if !able {
		return fmt.Errorf("dm-verity of kernel %s does not know %s, with which PID 1 ends a VM whose disk fails: want Linux %d.%d or later",
			version, panicOnError, panicOnErrorSince[0], panicOnErrorSince[1])
	}
	return nil
}

// atLeast compares the first two numbers of a version, as uname -r prints it.
func atLeast(version string, want [2]int) bool {
	var got [2]int
	for i, field := range strings.SplitN(version, ".", 3) {
		if i == len(got) {
			break
		}
		digits := field[:len(field)-len(strings.TrimLeft(field, "0123456789"))]
		n, err := strconv.Atoi(digits)
		if err != nil {
			return false
		}
		got[i] = n
	}
	return slices.Compare(got[:], want[:]) >= 0
}
