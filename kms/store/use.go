package store

import (
	"slices"
	"time"

	"github.com/rootvouch/rootvouch/kms/kv"
	"github.com/rootvouch/rootvouch/pins"
)

// Use counts the releases of a disk's key within the last hour. It exists only for records with
// a limit.
type Use struct {
	Minutes []Minute `json:"minutes"` // the oldest first
}

// Minute is a minute with releases.
type Minute struct {
	Minute int64  `json:"minute"` // since 1970
	Count  uint32 `json:"count"`
}

// useWindow is an hour, in minutes.
const useWindow = 60

// KeyUse is the key of a disk's Use.
func KeyUse(disk pins.UUID) string { return "use/" + disk.String() }

// UseOf decodes the item of a Use. Without an item it returns the zero Use.
func UseOf(item kv.Item) (Use, error) {
	var u Use
	if item.Mod == 0 {
		return u, nil
	}
	return u, decodeItem(item, &u)
}

// SetUse makes the item of a Use.
func SetUse(disk pins.UUID, u Use) kv.Write { return kv.Write{Key: KeyUse(disk), Value: encodeJSON(u)} }

// Within returns the number of releases in the hour before now. A release counts for up to a
// minute longer. Releases that were written by a clock ahead of now count too.
func (u Use) Within(now time.Time) (n uint32) {
	for _, m := range u.Minutes {
		if m.Minute >= minute(now)-useWindow {
			n += m.Count
		}
	}
	return n
}

// Add returns u with one more release, and without releases older than an hour.
func (u Use) Add(now time.Time) Use {
	at := minute(now)
	fresh := Use{}
	for _, m := range u.Minutes {
		if m.Minute >= at-useWindow {
			fresh.Minutes = append(fresh.Minutes, m)
		}
	}
	if i := slices.IndexFunc(fresh.Minutes, func(m Minute) bool { return m.Minute == at }); i >= 0 {
		fresh.Minutes[i].Count++
		return fresh
	}
	fresh.Minutes = append(fresh.Minutes, Minute{at, 1})
	return fresh
}

func minute(t time.Time) int64 { return t.Unix() / 60 }
