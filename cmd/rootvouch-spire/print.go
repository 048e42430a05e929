package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/rootvouch/rootvouch/internal/command"
	"github.com/rootvouch/rootvouch/spire/admin"
)

// The values of --format.
const (
	formatStaticEntry = "clusterstaticentry"
	formatEntryCreate = "entry-create"
)

// print prints changes. With plan set they have not been made.
func (f *entriesFlags) print(w io.Writer, changes []admin.Change, plan bool) error {
	if f.asJSON {
		return printJSON(w, changes)
	}
	for _, c := range changes {
		var selectors []string
		for _, s := range c.Entry.Selectors {
			selectors = append(selectors, s.String())
		}
		word := string(c.Action)
		if plan && c.Action != admin.Unchanged {
			word = "to be " + word
		}
		end := ""
		if !c.Entry.End.IsZero() {
			end = " until " + c.Entry.End.Format(time.RFC3339)
		}
		if _, err := fmt.Fprintf(w, "%-9s %s parent %s %s%s\n", word, c.Entry.SPIFFEID, c.Entry.Parent, strings.Join(selectors, " "), end); err != nil {
			return err
		}
	}
	return nil
}

// changeJSON is a change in the form that "rootvouch release" reads.
type changeJSON struct {
	Action    admin.Action `json:"action"`
	EntryID   string       `json:"entry_id"`
	SPIFFEID  string       `json:"spiffe_id"`
	Parent    string       `json:"parent_id"`
	Selectors []string     `json:"selectors"`
	End       string       `json:"end"` // RFC 3339, or never
}

func printJSON(w io.Writer, changes []admin.Change) error {
	out := struct {
		Version int          `json:"version"`
		Changes []changeJSON `json:"changes"`
	}{1, []changeJSON{}}
	for _, c := range changes {
		j := changeJSON{c.Action, c.Entry.ID, c.Entry.SPIFFEID.String(), c.Entry.Parent.String(), []string{}, endText(c.Entry.End)}
		for _, s := range c.Entry.Selectors {
			j.Selectors = append(j.Selectors, s.String())
		}
		out.Changes = append(out.Changes, j)
	}
	return encode(w, out)
}

func encode(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

func endText(end time.Time) string {
	if end.IsZero() {
		return "never"
	}
	return end.Format(time.RFC3339)
}

// printReleases carries out --list.
func (f *entriesFlags) printReleases(cmd *cobra.Command) error {
	if f.name == "" {
		return command.Usage(fmt.Errorf("--list needs the --name of a VM"))
	}
	return f.withClient(cmd, func(ctx context.Context, client *admin.Client) error {
		all, err := client.Releases(ctx, f.name)
		if err != nil {
			return err
		}
		if f.asJSON {
			type release struct {
				Name    string `json:"name"`
				End     string `json:"end"`
				Entries int    `json:"entries"`
			}
			out := struct {
				Version  int       `json:"version"`
				Releases []release `json:"releases"`
			}{1, []release{}}
			for _, r := range all {
				out.Releases = append(out.Releases, release{r.Name, endText(r.End), r.Entries})
			}
			return encode(cmd.OutOrStdout(), out)
		}
		table := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 0, 2, ' ', 0)
		fmt.Fprintln(table, "RELEASE\tENTRIES\tEND")
		for _, r := range all {
			fmt.Fprintf(table, "%s\t%d\t%s\n", r.Name, r.Entries, endText(r.End))
		}
		return table.Flush()
	})
}

// printFormat prints entries for another program that registers them.
func (f *entriesFlags) printFormat(w io.Writer, groups []admin.Group) error {
	var entries []admin.Entry
	for _, g := range groups {
		entries = append(entries, g.Entries...)
	}
	switch f.format {
	case formatStaticEntry:
		return printStaticEntries(w, entries)
	case formatEntryCreate:
		return printEntryCreate(w, entries)
	}
	return command.Usage(fmt.Errorf("--format is %q, want %s or %s", f.format, formatStaticEntry, formatEntryCreate))
}

// printStaticEntries writes objects of spire-controller-manager's custom resource
// (api/v1alpha1/clusterstaticentry_types.go). An object's name must be a DNS label, so it has a
// digest of the entry ID. Strings are quoted as in JSON, which is valid YAML.
func printStaticEntries(w io.Writer, entries []admin.Entry) error {
	var text strings.Builder
	for _, e := range entries {
		fmt.Fprintf(&text, "---\n# %s\napiVersion: spire.spiffe.io/v1alpha1\nkind: ClusterStaticEntry\nmetadata:\n  name: rootvouch-%x\nspec:\n", e.ID, sha256.Sum256([]byte(e.ID)))
		fmt.Fprintf(&text, "  spiffeID: %s\n  parentID: %s\n  selectors:\n", strconv.Quote(e.SPIFFEID.String()), strconv.Quote(e.Parent.String()))
		for _, s := range e.Selectors {
			fmt.Fprintf(&text, "    - %s\n", strconv.Quote(s.String()))
		}
		if e.TTL > 0 {
			fmt.Fprintf(&text, "  x509SVIDTTL: %q\n", e.TTL.String())
		}
	}
	_, err := io.WriteString(w, text.String())
	return err
}

// printEntryCreate writes the input file of "spire-server entry create -data".
func printEntryCreate(w io.Writer, entries []admin.Entry) error {
	type selector struct {
		Type  string `json:"type"`
		Value string `json:"value"`
	}
	type entry struct {
		EntryID   string     `json:"entry_id"`
		SPIFFEID  string     `json:"spiffe_id"`
		Parent    string     `json:"parent_id"`
		Selectors []selector `json:"selectors"`
		TTL       int64      `json:"x509_svid_ttl,omitempty"` // seconds
		End       int64      `json:"entryExpiry,omitempty"`   // Unix time
	}
	out := struct {
		Entries []entry `json:"entries"`
	}{[]entry{}}
	for _, e := range entries {
		j := entry{EntryID: e.ID, SPIFFEID: e.SPIFFEID.String(), Parent: e.Parent.String(), TTL: int64(e.TTL / time.Second)}
		if !e.End.IsZero() {
			j.End = e.End.Unix()
		}
		for _, s := range e.Selectors {
			j.Selectors = append(j.Selectors, selector{s.Type, s.Value})
		}
		out.Entries = append(out.Entries, j)
	}
	return encode(w, out)
}
