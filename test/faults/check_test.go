package faults

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"github.com/rootvouch/rootvouch/kms/audit"
	"github.com/rootvouch/rootvouch/kms/replay"
	"github.com/rootvouch/rootvouch/kms/tlogdir"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/snp"
)

// outcome is the result of a guest's request.
type outcome string

const (
	gotKey     outcome = "key"
	gotRefusal outcome = "refused" // a VM powers off
	gaveUp     outcome = "gave up"
	wrongKey   outcome = "wrong key"
	gotNothing outcome = "lost a race" // as expected
)

// result is one line of the results of guests and owners.
type result struct {
	Launch     snp.ReportID `json:"launch,omitzero"` // of a guest
	Put        pins.UUID    `json:"put,omitzero"`    // of an owner whose put was acknowledged
	Generation uint64       `json:"generation,omitempty"`
	Outcome    outcome      `json:"outcome"`
	Reason     string       `json:"reason,omitempty"`
}

// results is the file of results.
type results struct {
	path string
	mu   sync.Mutex // guards file
	file *os.File
}

func newResults(t testing.TB, path string) *results {
	t.Helper()
	file, err := os.Create(path)
	must(t, err)
	t.Cleanup(func() { file.Close() })
	return &results{path: path, file: file}
}

func (r *results) write(one result) {
	data, err := json.Marshal(one)
	if err != nil {
		panic(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.file.Write(append(data, '\n'))
}

// checker is the environment variable that makes this program the checker.
const checker = "ROOTVOUCH_FAULTS_CHECKER"

func TestMain(m *testing.M) {
	if os.Getenv(checker) == "" {
		os.Exit(m.Run())
	}
	said, err := decide(os.Args[1], os.Args[2:])
	fmt.Println(said)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// check runs the checker as a process that gets only the paths.
func check(results string, logs ...string) (string, error) {
	cmd := exec.Command("/proc/self/exe", append([]string{results}, logs...)...)
	cmd.Env = []string{checker + "=1"}
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// decide compares the guests' results with the log. Every copy of the log must
// agree.
func decide(path string, logs []string) (string, error) {
	said, err := readResults(path)
	if err != nil {
		return "", err
	}
	var errs []error
	var longest int
	var events, refusals map[string]int
	for _, dir := range logs {
		l, err := readLog(dir)
		if err != nil {
			return "", fmt.Errorf("log %s: %w", dir, err)
		}
		if l.size >= longest {
			longest, events, refusals = l.size, l.events, l.refusals
			errs = l.against(said)
		}
	}
	return fmt.Sprintf("%d leaves, %d releases, %d again, %d puts, %d refusals %v; guests: %s", longest, events["release"], events["release again"],
		events["put"], events["refusal"], refusals, said.count()), errors.Join(errs...)
}

// saying holds the guests' results.
type saying struct {
	launches map[snp.ReportID][]result
	puts     []result
}

func (s saying) count() string {
	n := map[outcome]int{}
	for _, all := range s.launches {
		for _, r := range all {
			n[r.Outcome]++
		}
	}
	return fmt.Sprint(n)
}

func readResults(path string) (saying, error) {
	s := saying{launches: map[snp.ReportID][]result{}}
	file, err := os.Open(path)
	if err != nil {
		return s, err
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		var r result
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			return s, err
		}
		if r.Put != (pins.UUID{}) {
			s.puts = append(s.puts, r)
			continue
		}
		s.launches[r.Launch] = append(s.launches[r.Launch], r)
	}
	return s, nil
}

// theLog holds the log's content.
type theLog struct {
	size     int
	events   map[string]int
	refusals map[string]int // :: code, and the checks that failed
	releases map[snp.ReportID]int
	puts     map[string]bool // :: disk and generation
	bad      []error
}

func readLog(path string) (theLog, error) {
	l := theLog{events: map[string]int{}, refusals: map[string]int{}, releases: map[snp.ReportID]int{}, puts: map[string]bool{}}
	dir := tlogdir.Dir(path)
	public, err := dir.Key()
	if err != nil {
		return l, err
	}
	verifier, err := note.NewVerifier(public)
	if err != nil {
		return l, err
	}
	signed, err := dir.Checkpoint()
	if err != nil {
		return l, err
	}
	tree, err := tlogdir.OpenCheckpoint(signed, verifier)
	if err != nil {
		return l, err
	}
	l.size = int(tree.Size)
	judge := replay.NewJudge(dir, retryWindow)
	seen := map[pins.Digest]bool{}
	err = replay.Read(dir, tree, func(index int64, leaf audit.Leaf, _ []byte) error {
		l.events[string(leaf.Event)]++
		switch about := leaf.About.(type) {
		case audit.AboutRelease:
			if leaf.Event == audit.Release {
				l.releases[about.ReportID]++
			}
		case audit.AboutRefusal:
			l.refusals[strings.Join(append([]string{about.Code}, about.Checks...), " ")]++
		case audit.AboutChange:
			l.puts[fmt.Sprint(about.Disk, about.Generation)] = true
		}
		if err := judge.Next(leaf); err != nil {
			l.bad = append(l.bad, fmt.Errorf("leaf %d: %w", index, err))
		}
		return replay.CheckContents(dir, leaf, seen)
	})
	return l, err
}

// against returns an error for each key that was lost or released twice.
func (l theLog) against(said saying) []error {
	errs := l.bad
	for launch, all := range said.launches {
		keys := 0
		for _, r := range all {
			switch r.Outcome {
			case gotKey:
				keys++
			case gotNothing:
			default:
				errs = append(errs, fmt.Errorf("launch %s: %s: %s", launch, r.Outcome, r.Reason))
			}
		}
		if n := l.releases[launch]; n != keys || keys != 1 {
			errs = append(errs, fmt.Errorf("launch %s: %d guests have the key, and the log has %d releases, want one of each", launch, keys, n))
		}
	}
	for launch, n := range l.releases {
		if n != 1 || said.launches[launch] == nil {
			errs = append(errs, fmt.Errorf("launch %s: the log has %d releases, and %d guests say something", launch, n, len(said.launches[launch])))
		}
	}
	for _, put := range said.puts {
		if !l.puts[fmt.Sprint(put.Put, put.Generation)] {
			errs = append(errs, fmt.Errorf("disk %s: the put of generation %d was acknowledged, and is not on the log", put.Put, put.Generation))
		}
	}
	return errs
}

// TestChecker checks that the checker finds lost and doubled releases.
func TestChecker(t *testing.T) {
	w := newRig(t, nil)
	l := w.load(2)
	l.more(t, 4)
	w.judge(l)
	log := w.servers[0].logDir()
	good, err := os.ReadFile(w.results.path)
	must(t, err)
	lines := strings.SplitAfter(string(good), "\n")
	var of string
	for _, line := range lines {
		if strings.Contains(line, `"launch"`) {
			of = line
		}
	}
	for _, c := range []struct{ name, results, want string }{
		{"a guest got its key twice", string(good) + of, "2 guests have the key"},
		{"a release that no guest has", strings.Replace(string(good), of, "", 1), "0 guests say something"},
		{"a guest gave up", strings.Replace(string(good), of, strings.Replace(of, `"key"`, `"gave up"`, 1), 1), "gave up"},
		{"a guest has a key that is not on the log", string(good) + `{"launch":"` + strings.Repeat("ab", 32) + `","outcome":"key"}` + "\n", "the log has 0 releases"},
		{"a put that is not on the log", string(good) + `{"put":"12345678-1234-1234-1234-123456789abc","generation":9,"outcome":"key"}` + "\n", "is not on the log"},
	} {
		path := filepath.Join(t.TempDir(), "results")
		must(t, os.WriteFile(path, []byte(c.results), 0o600))
		if out, err := check(path, log); err == nil || !strings.Contains(out, c.want) {
			t.Errorf("%s: got %v, %s, want %q", c.name, err, out, c.want)
		}
	}
}
