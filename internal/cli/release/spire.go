package release

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
	"time"

	"github.com/rootvouch/rootvouch/internal/cli"
	"github.com/rootvouch/rootvouch/internal/strictjson"
	"github.com/rootvouch/rootvouch/release"
)

// spireServer is a SPIRE server. A program that speaks gRPC reaches it.
type spireServer struct{ program, socket, trustDomain, kmsID string }

// entries runs "rootvouch spire entries", whose JSON goes into reply.
func (s spireServer) entries(ctx context.Context, reply any, args ...string) error {
	args = append([]string{"entries", "--socket", s.socket, "--trust-domain", s.trustDomain, "--json"}, args...)
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, s.program, args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		said := strings.TrimPrefix(strings.TrimSpace(stderr.String()), "rootvouch-spire: error: ")
		if said == "" {
			said = err.Error()
		}
		return fmt.Errorf("asking the SPIRE server at %s: %s", s.socket, said)
	}
	if err := strictjson.Unmarshal(stdout.Bytes(), reply); err != nil {
		return fmt.Errorf("reading what %s printed: %v", s.program, err)
	}
	return nil
}

// changes is the output of "spire entries --json".
type changes struct {
	Version int `json:"version"`
	Changes []struct {
		Action    string   `json:"action"`
		EntryID   string   `json:"entry_id"`
		SPIFFEID  string   `json:"spiffe_id"`
		Parent    string   `json:"parent_id"`
		Selectors []string `json:"selectors"`
		End       string   `json:"end"`
	} `json:"changes"`
}

func (s spireServer) Releases(ctx context.Context, vm string) ([]release.Entries, error) {
	var reply struct {
		Version  int `json:"version"`
		Releases []struct {
			Name    string `json:"name"`
			End     string `json:"end"`
			Entries int    `json:"entries"`
		} `json:"releases"`
	}
	if err := s.entries(ctx, &reply, "--name", vm, "--list"); err != nil {
		return nil, err
	}
	var all []release.Entries
	for _, r := range reply.Releases {
		e := release.Entries{Release: r.Name, Count: r.Entries}
		if r.End != "never" {
			var err error
			if e.End, err = time.Parse(time.RFC3339, r.End); err != nil {
				return nil, fmt.Errorf("reading the end of release %q: %w", r.Name, err)
			}
		}
		all = append(all, e)
	}
	return all, nil
}

// group names a release's entries.
func (s spireServer) group(r *release.Release, end time.Time) []string {
	args := []string{"--name", r.Manifest.Name, "--release-id", r.Manifest.Release, "--spiffe-id", r.Manifest.SPIFFEID, "--kms-spiffe-id", s.kmsID,
		"--refval", r.Path(release.RefvalFile), "--fetchkey-sha256", r.Manifest.FetchkeySHA256.String(), "--remove"}
	if r.Values.CheckKernels() != nil {
		args = append(args, "--"+cli.UnmeasuredKernelFlag)
	}
	return append(args, "--end", endText(end))
}

func endText(end time.Time) string {
	if end.IsZero() {
		return "never"
	}
	return end.UTC().Format(time.RFC3339)
}

func (s spireServer) Missing(ctx context.Context, r *release.Release, end time.Time) (int, error) {
	var reply changes
	if err := s.entries(ctx, &reply, append(s.group(r, end), "--dry-run")...); err != nil {
		return 0, err
	}
	missing := 0
	for _, c := range reply.Changes {
		if c.Action != "unchanged" {
			missing++
		}
	}
	return missing, nil
}

func (s spireServer) Make(ctx context.Context, r *release.Release, end time.Time) error {
	return s.entries(ctx, new(changes), s.group(r, end)...)
}

func (s spireServer) SetEnd(ctx context.Context, vm, name string, end time.Time) error {
	return s.entries(ctx, new(changes), "--name", vm, "--release-id", name, "--end", endText(end))
}

func (s spireServer) Remove(ctx context.Context, vm, name string) error {
	return s.entries(ctx, new(changes), "--name", vm, "--release-id", name, "--remove")
}
