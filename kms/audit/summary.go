package audit

import (
	"fmt"
	"maps"
	"slices"

	"github.com/rootvouch/rootvouch/pins"
)

// Summary is one row of a table of leaves. Columns that do not apply are empty.
type Summary struct {
	Disk, SPIFFEID, What string
}

// Summary summarizes the leaf.
func (l Leaf) Summary() Summary {
	switch a := l.About.(type) {
	case AboutInit:
		return Summary{What: "log " + a.Origin}
	case AboutStart:
		return Summary{SPIFFEID: a.SPIFFEID}
	case AboutVolume:
		who := a.Actor
		if who == "" {
			who = a.Remote
		}
		return Summary{Disk: a.Disk.String(), What: fmt.Sprintf("%s, generation %d, by %s", a.State, a.Generation, who)}
	case AboutRelease:
		if a.Volume != nil {
			return Summary{a.diskText(), a.SPIFFEID, fmt.Sprintf("volume %s, generation %d, to %s, REPORT_ID %s", a.Volume.Found, a.Volume.Generation, a.Remote, a.ReportID)}
		}
		return Summary{a.diskText(), a.SPIFFEID, fmt.Sprintf("generation %d to %s, REPORT_ID %s", a.Generation, a.Remote, a.ReportID)}
	case AboutRefusal:
		return Summary{a.diskText(), a.SPIFFEID, fmt.Sprintf("%s from %s: %s", a.Code, a.Remote, a.Reason)}
	case AboutLeftOut:
		return Summary{SPIFFEID: a.SPIFFEID, What: fmt.Sprintf("%d refusals", a.Count)}
	case AboutChange:
		what := fmt.Sprintf("generation %d by %s", a.Generation, a.Actor)
		if a.RootOfTrust != "" {
			what += ", root of trust " + a.RootOfTrust
		}
		return Summary{a.Disk.String(), a.SPIFFEID, what + ticket(a.Ticket)}
	case AboutMadeKey:
		return Summary{What: a.ID + " by " + a.Actor + ticket(a.Ticket)}
	case AboutBackup:
		return Summary{What: "by " + a.Actor + ticket(a.Ticket)}
	case AboutRecovery:
		return Summary{What: fmt.Sprintf("%d leaves, %d releases, %d keys lost", a.Leaves, a.Releases, len(a.Lost))}
	case AboutExport:
		return Summary{Disk: a.Disk.String(), What: fmt.Sprintf("generation %d to %d recipients by %s%s", a.Generation, len(a.Recipients), a.Actor, ticket(a.Ticket))}
	case AboutRewrap:
		return Summary{What: fmt.Sprintf("%d secrets under %s by %s%s", a.Items, a.KEK, a.Actor, ticket(a.Ticket))}
	}
	return Summary{}
}

func ticket(text string) string {
	if text == "" {
		return ""
	}
	return ", ticket " + text
}

func (r Request) diskText() string {
	if r.Disk == (pins.UUID{}) {
		return ""
	}
	return r.Disk.String()
}

// Known reports whether e is a known event.
func Known(e Event) bool {
	_, ok := kinds[e]
	return ok
}

// Events lists all events.
func Events() []Event { return slices.Sorted(maps.Keys(kinds)) }
