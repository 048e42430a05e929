package store

import (
	"bytes"
	"sync"

	"github.com/rootvouch/rootvouch/kms/kv"
	"github.com/rootvouch/rootvouch/pins"
)

// maxDecoded bounds how many records are remembered.
const maxDecoded = 4096

// decoded remembers records that are asked for again and again. A remembered record counts only
// for the bytes that it was decoded from. Callers must not change what a record points to.
type decoded struct {
	mu  sync.Mutex                // guards all
	all map[string]rememberedItem // :: key -> its item, decoded
}

type rememberedItem struct {
	value  []byte
	record Record
}

// recordOf is RecordOf, from memory if it can be.
func (d *decoded) recordOf(item kv.Item, disk pins.UUID) (Record, error) {
	d.mu.Lock()
	known, ok := d.all[item.Key]
	d.mu.Unlock()
	if ok && item.Mod != 0 && known.record.DiskUUID == disk && bytes.Equal(known.value, item.Value) {
		known.record.mod = item.Mod
		return known.record, nil
	}
	r, err := RecordOf(item, disk)
	if err != nil {
		return Record{}, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.all == nil || len(d.all) >= maxDecoded {
		d.all = map[string]rememberedItem{}
	}
	d.all[item.Key] = rememberedItem{item.Value, r}
	return r, nil
}
