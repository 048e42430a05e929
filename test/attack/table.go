package attack

import (
	"bytes"
	"fmt"
	"strings"
)

const preamble = `# Attacks

Each row is one attack of the suite: the attempt, the expected outcome, and the claim of
[THREATS.md](THREATS.md) that the attack is against. The headings name what the attacker controls.
The rows are those of ` + "`test/attack`" + `. Only a run of the tests (` + "`make attack`" + `) writes the last column:

- *as expected*: the test passed. If the test prints an observation, the observation follows.
- *FAILED*: the test failed. A table with such a row must not be merged.
- *not run*: no run has shown the row yet.
- *needs hardware*: the emulated platform cannot show the row. It has never run, and counts as open.

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
			fmt.Fprintf(&out, "## %s\n\n| attack | attempt | expected outcome | claim | shown by | result |\n|---|---|---|---|---|---|\n", title)
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
