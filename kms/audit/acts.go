package audit

import (
	"github.com/rootvouch/rootvouch/pins"
)

// AboutMadeKey is about a key that the server made.
type AboutMadeKey struct {
	nothing
	Actor  string `json:"actor"`
	Ticket string `json:"ticket,omitempty"`
	ID     string `json:"id"` // names the key until a put claims it
}

func (a AboutMadeKey) bounded() Body {
	a.Actor, a.Ticket, a.ID = text(a.Actor, maxShort), text(a.Ticket, maxShort), text(a.ID, maxShort)
	return a
}

// AboutBackup is about a copy of the store that left the server.
type AboutBackup struct {
	nothing
	Actor  string `json:"actor"`
	Ticket string `json:"ticket,omitempty"`
}

func (a AboutBackup) bounded() Body {
	a.Actor, a.Ticket = text(a.Actor, maxShort), text(a.Ticket, maxShort)
	return a
}

// AboutRecovery is about a store that was made from a backup and brought up to the log.
type AboutRecovery struct {
	nothing
	Leaves   uint64    `json:"leaves"`   // leaves that the backup lacked
	Releases uint64    `json:"releases"` // releases among them
	Lost     []LostKey `json:"lost"`     // keys registered since the backup
}

// MaxLost bounds AboutRecovery.Lost.
const MaxLost = 500

// LostKey is a key that no backup has.
type LostKey struct {
	Disk       pins.UUID `json:"disk_uuid"`
	Generation uint64    `json:"generation"`
}

func (a AboutRecovery) bounded() Body { return a }

// AboutExport is about a key that left the server, sealed to the configured recipients.
type AboutExport struct {
	nothing
	Actor      string    `json:"actor"`
	Ticket     string    `json:"ticket,omitempty"`
	Disk       pins.UUID `json:"disk_uuid"`
	Generation uint64    `json:"generation"`
	Recipients []string  `json:"recipients"`
}

func (a AboutExport) bounded() Body {
	a.Actor, a.Ticket = text(a.Actor, maxShort), text(a.Ticket, maxShort)
	recipients := []string{}
	for _, r := range a.Recipients[:min(len(a.Recipients), MaxRecipients)] {
		recipients = append(recipients, text(r, maxShort))
	}
	a.Recipients = recipients
	return a
}

// AboutRewrap is about secrets that were sealed again under another key-encryption key.
type AboutRewrap struct {
	nothing
	Actor  string `json:"actor"`
	Ticket string `json:"ticket,omitempty"`
	KEK    string `json:"kek"` // the key that seals them now
	Items  uint64 `json:"items"`
}

func (a AboutRewrap) bounded() Body {
	a.Actor, a.Ticket, a.KEK = text(a.Actor, maxShort), text(a.Ticket, maxShort), text(a.KEK, maxShort)
	return a
}

// MaxRecipients bounds AboutExport.Recipients. Each is cut to a few hundred bytes.
const MaxRecipients = 10
