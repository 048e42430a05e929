// Package attack is the attack suite: one row for each attack by a host, a network
// or a stranger, with the expected outcome.
//
// A row cites the test that shows it, in this package or in another. `make attack`
// runs all these tests and writes docs/ATTACKS.md, a table with the results that
// the run saw. If only hardware can show a row, the row says so and has no result.
package attack

// Row is one attack.
type Row struct {
	ID       string // unique; lower case, digits, hyphens
	Input    string // what the attacker controls
	Attack   string
	Expected string
	Claim    string // words of the claim in docs/THREATS.md that the attack is against
	// Shown is the test that shows the row, as "directory.TestName" or
	// "directory.TestName/subtest". If it is empty, only hardware can show the row,
	// and Hardware says why.
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
