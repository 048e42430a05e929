package program

// program is the assembly. Nothing calls it here.
func program()

// assembled returns the first byte of the assembly, for the test that compares it
// with program.bin.
func assembled() *byte
