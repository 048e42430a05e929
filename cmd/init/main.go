// Init is PID 1 of a rootvouch guest. All its code is in package boot. At the end of the guest
// it becomes PID 1 again, under the name bootconfig.CloseProgram.
package main

import (
	"os"

	"github.com/rootvouch/rootvouch/boot"
	"github.com/rootvouch/rootvouch/boot/bootconfig"
)

func main() {
	if os.Args[0] == bootconfig.CloseProgram {
		boot.Close(os.Args[1:])
	}
	boot.Main(boot.DefaultLimits())
}
