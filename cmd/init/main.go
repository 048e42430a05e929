// Init is PID 1 of a rootvouch guest; package boot is all of it. Under the name of
// bootconfig.CloseProgram it is PID 1 again at the end.
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
