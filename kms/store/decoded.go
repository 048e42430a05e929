package store

import (
	"bytes"
	"sync"

	"github.com/rootvouch/rootvouch/kms/kv"
	"github.com/rootvouch/rootvouch/pins"
)

// maxDecoded bounds how many records the cache holds.
const maxDecoded = 4096

// decoded caches records that are read often. An entry is good only for the bytes from which it
// was decoded. Callers must not change what a record points to.
type decoded struct {
	mu  sync.Mutex                // guards all
	all map[string]rememberedItem // :: key -> its item, decoded
}

type rememberedItem struct {
	value  []byte
	record Record
}

// recordOf is RecordOf through the cache.
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
