package admin

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"

	"github.com/rootvouch/rootvouch/refval"
	"github.com/rootvouch/rootvouch/snp"
	"github.com/rootvouch/rootvouch/spire/nodeattest"
)

// alias is one node alias of a VM: agents with its selectors belong to the VM.
type alias struct {
	id        string
	selectors []Selector
}

// aliases returns one alias for each root of trust, each measurement, and each exact value of
// the other fields that distinguish launches.
//
// The alias has the root of trust beside the measurement. So a server that also accepts an
// emulated platform gives the platform's guests no identity of a real VM. The other fields
// separate two VMs that were launched from the same bytes with different HOST_DATA or ID
// blocks: each gets only its own entries.
func aliases(all []refval.Values) []alias {
	found := map[string]alias{} // :: last part of the entry ID -> alias
	for _, v := range all {
		root, short := "root_of_trust:amd", "amd"
		if ark, emulated := v.RootOfTrust.Emulated(); emulated {
			root, short = "root_of_trust:emulated:"+ark.String(), "emulated-"+ark.String()[:16]
		}
		for _, m := range v.Measurements {
			for _, more := range exact(v) {
				id := fmt.Sprintf("node.%s.%s", short, m.Digest)
				if len(more) > 0 {
					id += fmt.Sprintf(".%x", sha256.Sum256(fmt.Append(nil, more)))[:17]
				}
				found[id] = alias{id, append([]Selector{
					{nodeattest.PluginName, "measurement:" + m.Digest.String()},
					{nodeattest.PluginName, root},
				}, more...)}
			}
		}
	}
	return slices.SortedFunc(maps.Values(found), func(a, b alias) int { return cmp.Compare(a.id, b.id) })
}

// exact returns the selectors of the other exact fields of reference values, one list
// for each accepted combination. Fields with "any" have no selector.
func exact(v refval.Values) [][]Selector {
	all := [][]Selector{nil}
	and := func(name string, values []string) {
		var next [][]Selector
		for _, have := range all {
			for _, value := range values {
				next = append(next, append(slices.Clone(have), Selector{nodeattest.PluginName, name + ":" + value}))
			}
		}
		if len(values) > 0 {
			all = next
		}
	}
	and("host_data", single(v.HostData))
	and("id_key_digest", each(v.IDKeyDigests))
	and("author_key_digest", each(v.AuthorKeyDigests))
	and("family_id", single(v.FamilyID))
	and("image_id", single(v.ImageID))
	return all
}

func single[T fmt.Stringer](want refval.Want[T]) []string {
	value, ok := want.Value()
	if !ok {
		return nil
	}
	return []string{value.String()}
}

func each(want refval.Want[[]snp.KeyDigest]) []string {
	list, ok := want.Value()
	if !ok {
		return nil
	}
	var all []string
	for _, d := range list {
		all = append(all, d.String())
	}
	return all
}
