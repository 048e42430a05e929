package attack

import (
	"bytes"
	"fmt"
	"strings"
)

const preamble = `# Attacks

One row for each attack of the suite: what the attacker controls, what it tries, what has to come of
it, and the words of [THREATS.md](THREATS.md) that the row bears on. ` + "`make attack`" + ` runs the tests
and writes the last column; nobody else does. The rows themselves are those of ` + "`test/attack`" + `.

- *as expected*: the test passed; where it says what it saw, that follows.
- *FAILED*: it did not. A table with such a row is not to be merged.
- *not run*: no run has shown it yet.
- *needs hardware*: the emulated platform cannot show it. It has never been run, and counts as open.

`

// The results that no test gives.
const (
	NotRun        = "not run"
	NeedsHardware = "needs hardware"
)

// Format writes docs/ATTACKS.md. results are by ID.
func Format(rows []Row, results map[string]string) []byte {
	var out bytes.Buffer
	out.WriteString(preamble)
	input := ""
	for _, r := range rows {
		if r.Input != input {
			input = r.Input
			title := strings.ToUpper(input[:1]) + input[1:]
			fmt.Fprintf(&out, "## %s\n\n| attack | what is tried | what has to come of it | claim | shown by | result |\n|---|---|---|---|---|---|\n", title)
		}
		shown, result := "`"+r.Shown+"`", results[r.ID]
		switch {
		case r.Shown == "":
			shown, result = "nothing here: "+r.Hardware, NeedsHardware
		case result == "":
			result = NotRun
		}
		fmt.Fprintf(&out, "| %s | %s | %s | %s | %s | %s |\n", r.ID, r.Attack, r.Expected, r.Claim, shown, result)
		if last := rows[len(rows)-1]; r == last || next(rows, r).Input != input {
			out.WriteString("\n")
		}
	}
	return append(bytes.TrimRight(out.Bytes(), "\n"), '\n')
}

// next returns the row after r.
func next(rows []Row, r Row) Row {
	for i := range rows[:len(rows)-1] {
		if rows[i] == r {
			return rows[i+1]
		}
	}
	return Row{}
}

// Results reads the last column of docs/ATTACKS.md, by ID.
func Results(document []byte) map[string]string {
	results := map[string]string{}
	for line := range strings.Lines(string(document)) {
		cells := strings.Split(strings.TrimSpace(line), " | ")
		if len(cells) != 6 || !strings.HasPrefix(line, "| ") {
			continue
		}
		results[strings.TrimPrefix(cells[0], "| ")] = strings.TrimSuffix(cells[5], " |")
	}
	return results
}
