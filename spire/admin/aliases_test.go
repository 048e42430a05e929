package admin

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/refval"
	"github.com/rootvouch/rootvouch/snp"
	"github.com/rootvouch/rootvouch/spire/conf"
)

// loose accepts one measurement, and anything else.
func loose() refval.Values {
	v := values(refval.AMD(), snp.Measurement{1})
	v.IDKeyDigests, v.AuthorKeyDigests = refval.Any[[]snp.KeyDigest](), refval.Any[[]snp.KeyDigest]()
	return v
}

// selectorsOf are the selectors of each alias beside measurement and root.
func selectorsOf(all ...refval.Values) []string {
	var lines []string
	for _, a := range aliases(all) {
		var line []string
		for _, s := range a.selectors[2:] {
			line = append(line, s.Value)
		}
		lines = append(lines, strings.Join(line, " "))
	}
	slices.Sort(lines)
	return lines
}

// Two VMs of the same measured bytes are told apart by what their launches must
// say beside it.
func TestAliasesKeepLaunchesApart(t *testing.T) {
	host, key := snp.HostData{2}, func(n byte) snp.KeyDigest { return snp.KeyDigest{n} }
	hosted := loose()
	hosted.HostData = refval.Exactly(host)
	keyed := loose()
	keyed.IDKeyDigests, keyed.AuthorKeyDigests = refval.Exactly([]snp.KeyDigest{key(3), key(4)}), refval.Exactly([]snp.KeyDigest{key(5)})
	named := loose()
	named.FamilyID, named.ImageID = refval.Exactly(snp.GuestID{6}), refval.Exactly(snp.GuestID{7})
	for _, c := range []struct {
		all  []refval.Values
		want []string
	}{
		{[]refval.Values{loose()}, []string{""}},
		{[]refval.Values{hosted, hosted}, []string{"host_data:" + host.String()}},
		{[]refval.Values{hosted, loose()}, []string{"", "host_data:" + host.String()}},
		{[]refval.Values{keyed}, []string{
			"id_key_digest:" + key(3).String() + " author_key_digest:" + key(5).String(),
			"id_key_digest:" + key(4).String() + " author_key_digest:" + key(5).String(),
		}},
		{[]refval.Values{named}, []string{"family_id:" + snp.GuestID{6}.String() + " image_id:" + snp.GuestID{7}.String()}},
	} {
		if diff := cmp.Diff(c.want, selectorsOf(c.all...)); diff != "" {
			t.Error(diff)
		}
	}
}

// The longest entry ID that there can be fits SPIRE's column, and what aliases ask
// for is what server.conf has agents get.
func TestAliasesFitSPIRE(t *testing.T) {
	v := loose()
	v.RootOfTrust = refval.EmulatedARK(pins.Digest{1})
	v.IDKeyDigests, v.AuthorKeyDigests = refval.Exactly([]snp.KeyDigest{{1}}), refval.Exactly([]snp.KeyDigest{{2}})
	v.HostData, v.FamilyID, v.ImageID = refval.Exactly(snp.HostData{3}), refval.Exactly(snp.GuestID{4}), refval.Exactly(snp.GuestID{5})
	group, err := VM{Name: strings.Repeat("n", maxName), Release: strings.Repeat("r", maxRelease), Values: []refval.Values{v}, Workload: workload, Fetchkey: program}.Entries(domain)
	if err != nil {
		t.Fatal(err)
	}
	if id := group.Entries[0].ID; len(id) > 255 {
		t.Errorf("entry ID has %d bytes, SPIRE's database takes 255: %s", len(id), id)
	}
	var names []string
	for _, s := range group.Entries[0].Selectors {
		name, _, _ := strings.Cut(s.Value, ":")
		names = append(names, name)
	}
	slices.Sort(names)
	given := slices.Sorted(slices.Values(conf.DefaultSelectors()))
	if diff := cmp.Diff(given, names); diff != "" {
		t.Error(diff)
	}
}
