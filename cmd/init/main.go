// Init is PID 1 of a rootvouch guest; package boot is all of it.
package main

import "github.com/rootvouch/rootvouch/boot"

func main() { boot.Main(boot.DefaultLimits()) }
