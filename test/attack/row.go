// Package attack is the attack suite: what a host, a network or a stranger may
// try, one row for each, with what has to come of it.
//
// A row is shown by a test of its own in this package, or by one elsewhere that
// it cites. `make attack` runs all of them and writes docs/ATTACKS.md, the table
// with what each run saw. A row that only hardware can show says so, and has no
// result.
package attack

// Row is one attack.
type Row struct {
	ID       string // unique; lower case, digits, hyphens
	Input    string // what the attacker controls
	Attack   string
	Expected string
	Claim    string // words of docs/THREATS.md that this row bears on
	// Shown is the test that shows it, as "directory.TestName" or
	// "directory.TestName/subtest". Empty: only hardware can, and Hardware says why.
	Shown    string
	Hardware string
}

// Rows returns the attacks, grouped by input.
func Rows() []Row {
	var all []Row
	for _, group := range [][]Row{
		firmware(), firmwareInput(), launch(), unmeasured(), tables(), hostTables(), devices(), dumps(), plugged(), shapes(), disk(), changedDisk(),
		heldVolumes(), usedVolumes(), keyedVolumes(), labels(), clocks(), boot(), lyingPrograms(), network(), brokenNetwork(), reports(), keys(), servers(), identity(), files(),
	} {
		all = append(all, group...)
	}
	return all
}
