// Hasty is PID 1 with short limits, which keep tests of a silent server short.
package main

import (
	"time"

	"github.com/rootvouch/rootvouch/boot"
)

func main() {
	boot.Main(boot.Limits{
		Network: 20 * time.Second,
		Agent:   4 * time.Second,
		Key:     10 * time.Second, // the stand-in of fetchkey starts in it, on a machine that does other things as well
		Disk:    2 * time.Second,
	})
}
