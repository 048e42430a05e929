package admin

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"slices"
	"time"

	"github.com/rootvouch/rootvouch/kms/adminapi"
	"github.com/rootvouch/rootvouch/kms/audit"
	"github.com/rootvouch/rootvouch/kms/store"
	"github.com/rootvouch/rootvouch/kms/tlogdir"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/refval"
)

// Watch reads the state of the rest of the server. The page leaves out each part whose field is
// nil.
type Watch struct {
	// Log is the directory of the transparency log.
	Log tlogdir.Dir
	// CRLs returns the newest revocation list of each issuer.
	CRLs func() ([]CRL, error)
	// Lacks lists the revocation lists that an appraisal with these reference values would lack
	// now.
	Lacks func(refval.Values) []string
	// Ill returns what keeps the server from releasing keys.
	Ill func() error
}

// CRL is one revocation list.
type CRL struct {
	Issuer     string
	From, Ends time.Time
}

// Limits of the page.
const (
	pageDisks    = 50
	pageLeaves   = 2000 // that the page reads from the log
	pageRefusals = 25
	pageReleases = 1000 // that the page reads for a disk
)

//go:embed page.html
var pageText string

var pageTemplate = template.Must(template.New("page").Funcs(template.FuncMap{
	"when": func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05") + " UTC" },
	"ago":  ago,
}).Parse(pageText))

// ago returns the rough distance between a time and now, in words.
func ago(t, now time.Time) string {
	d, word := now.Sub(t), "ago"
	if d < 0 {
		d, word = -d, "from now"
	}
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d s %s", int(d.Seconds()), word)
	case d < time.Hour:
		return fmt.Sprintf("%d min %s", int(d.Minutes()), word)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h %s", int(d.Hours()), word)
	}
	return fmt.Sprintf("%d days %s", int(d.Hours()/24), word)
}

// pageData is the input of the template.
type pageData struct {
	Now      time.Time
	ID       string
	Ill      []string
	Total    uint64
	Disks    []pageDisk
	Next     string // UUID after which the next page begins
	Refusals []pageRefusal
	Log      struct {
		Size       int64
		Root       string
		Complete   time.Time
		Checkpoint string
	}
	CRLs   []pageCRL
	CRLErr string
}

type pageDisk struct {
	adminapi.Record
	Staged       bool
	Last         *store.Lease // the newest release
	Releases     string       // their number
	Measurements []string
}

type pageRefusal struct {
	Leaf audit.Leaf
	audit.AboutRefusal
	Disk string
}

type pageCRL struct {
	CRL
	Stale bool
}

// page answers with the operator's page. The page is read-only, has no script, and loads no
// other resource.
func (a *Admin) page(w http.ResponseWriter, r *http.Request) {
	data, err := a.pageData(r)
	if err != nil {
		a.fail(w, r, audit.Actor{}, err)
		return
	}
	var out bytes.Buffer
	if err := pageTemplate.Execute(&out, data); err != nil {
		panic("admin: internal error: " + err.Error())
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'sha256-"+pageStyle+"'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-store")
	w.Write(out.Bytes())
}

func (a *Admin) pageData(r *http.Request) (pageData, error) {
	ctx, now := r.Context(), a.ledger.Now()
	d := pageData{Now: now, ID: a.id.String()}
	after := pins.UUID{}
	if text := r.URL.Query().Get("after"); text != "" {
		var err error
		if after, err = pins.ParseUUID(text); err != nil {
			return d, fmt.Errorf("%w: after: %v", errInvalid, err)
		}
	}
	var err error
	if d.Total, err = a.ledger.Records.Count(ctx); err != nil {
		return d, err
	}
	if err := a.pageDisks(ctx, &d, after); err != nil {
		return d, err
	}
	state := a.log()
	d.Log.Size, d.Log.Root, d.Log.Complete, d.Log.Checkpoint = state.Tree.Size, state.Tree.Root.String(), state.At, string(state.Checkpoint)
	if a.Watch.Log != "" {
		if d.Refusals, err = a.pageRefusals(state.Tree); err != nil {
			return d, err
		}
	}
	if a.Watch.Ill != nil {
		d.Ill = lines(a.Watch.Ill())
	}
	if a.Watch.CRLs != nil {
		all, err := a.Watch.CRLs()
		if err != nil {
			d.CRLErr = err.Error()
		}
		for _, crl := range all {
			d.CRLs = append(d.CRLs, pageCRL{crl, now.Before(crl.From) || now.After(crl.Ends)})
		}
	}
	return d, nil
}

// lines returns the texts of the errors that err joins.
func lines(err error) []string {
	if err == nil {
		return nil
	}
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []string{err.Error()}
	}
	var all []string
	for _, one := range joined.Unwrap() {
		all = append(all, one.Error())
	}
	return all
}

func (a *Admin) pageDisks(ctx context.Context, d *pageData, after pins.UUID) error {
	all, err := a.ledger.Records.List(ctx, after, pageDisks+1)
	if err != nil {
		return err
	}
	if len(all) > pageDisks {
		all = all[:pageDisks]
		d.Next = all[pageDisks-1].DiskUUID.String()
	}
	for _, record := range all {
		shown := pageDisk{Record: a.view(ctx, record)}
		if _, staged, err := a.ledger.Records.Both(ctx, record.DiskUUID); err == nil && staged != nil {
			shown.Staged = true
		} else if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
		for _, m := range shown.Record.Measurements {
			shown.Measurements = append(shown.Measurements, m.Digest.String()[:16])
		}
		leases, err := a.ledger.Records.SomeLeases(ctx, record.DiskUUID, pageReleases+1)
		if err != nil {
			return err
		}
		for i, lease := range leases {
			if shown.Last == nil || lease.Time.After(shown.Last.Time) {
				shown.Last = &leases[i]
			}
		}
		shown.Releases = fmt.Sprint(len(leases))
		if len(leases) > pageReleases {
			shown.Releases = fmt.Sprintf("more than %d", pageReleases)
		}
		d.Disks = append(d.Disks, shown)
	}
	return nil
}

// pageRefusals returns the newest refusals among the newest leaves of the log.
func (a *Admin) pageRefusals(t tlogdir.Tree) ([]pageRefusal, error) {
	var all []pageRefusal
	err := a.Watch.Log.Read(t, max(0, t.Size-pageLeaves), func(_ int64, data []byte) error {
		leaf, err := audit.Decode(data)
		if err != nil {
			return err
		}
		if about, ok := leaf.About.(audit.AboutRefusal); ok {
			shown := pageRefusal{Leaf: leaf, AboutRefusal: about}
			if about.Request.Disk != (pins.UUID{}) {
				shown.Disk = about.Request.Disk.String()
			}
			all = append(all, shown)
		}
		return nil
	})
	slices.Reverse(all)
	return all[:min(len(all), pageRefusals)], err
}
