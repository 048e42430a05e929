package program

// program is the assembly code. No Go code calls it.
func program()

// assembled returns the first byte of the assembly, for the test that compares it
// with program.bin.
func assembled() *byte
