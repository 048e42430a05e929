package admin

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/spire-api-sdk/proto/spire/api/types"

	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/refval"
	"github.com/rootvouch/rootvouch/snp"
)

var (
	domain   = spiffeid.RequireTrustDomainFromString("example.org")
	workload = spiffeid.RequireFromPath(domain, "/vm/one")
	program  = Executable{Path: "/bin/fetchkey", SHA256: pins.Digest{1}}
)

func values(root refval.RootOfTrust, digests ...snp.Measurement) refval.Values {
	var all []refval.Measurement
	for _, d := range digests {
		all = append(all, refval.Measurement{Digest: d, HostCode: refval.HostCodeNone, Kernel: refval.KernelMeasured, Provenance: refval.Provenance{KernelSHA256: [32]byte{1}}, Gate: "9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a", VCPUs: 1, CPUType: "EPYC-v4"})
	}
	return refval.New(root, all)
}

func TestVMEntries(t *testing.T) {
	a, b := snp.Measurement{0xa}, snp.Measurement{0xb}
	group, err := VM{Name: "one", Values: []refval.Values{values(refval.AMD(), b, a, a), values(refval.EmulatedARK(pins.Digest{2}), a)},
		Workload: workload, Fetchkey: program}.Entries(domain)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	ids := map[string]bool{}
	for _, e := range group.Entries {
		line := e.SPIFFEID.Path() + " < " + e.Parent.Path()
		for _, s := range e.Selectors {
			line += " " + s.String()
		}
		got = append(got, line)
		if ids[e.ID] || !group.owns(e.ID) || len(e.ID) > 255 {
			t.Errorf("entry ID %q is not one of this group alone, or too long", e.ID)
		}
		ids[e.ID] = true
	}
	node := "/node/one < /spire/server amd_sev_snp:measurement:"
	noIDBlock := " amd_sev_snp:id_key_digest:" + snp.KeyDigest{}.String() + " amd_sev_snp:author_key_digest:" + snp.KeyDigest{}.String()
	want := []string{
		node + a.String() + " amd_sev_snp:root_of_trust:amd" + noIDBlock,
		node + b.String() + " amd_sev_snp:root_of_trust:amd" + noIDBlock,
		node + a.String() + " amd_sev_snp:root_of_trust:emulated:" + pins.Digest{2}.String() + noIDBlock,
		"/vm/one < /node/one unix:path:/bin/fetchkey unix:sha256:" + pins.Digest{1}.String(),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// What one group takes for its own is never another's.
func TestGroupsAreApart(t *testing.T) {
	vm := func(name string) Group {
		g, err := VM{Name: name, Values: []refval.Values{values(refval.AMD(), snp.Measurement{1})}, Workload: workload, Fetchkey: program}.Entries(domain)
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	kms := func(path string) Group {
		g, err := KMS(spiffeid.RequireFromPath(domain, path), spiffeid.RequireFromPath(domain, OwnerPath), program, UID(7), 0)
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	all := []Group{vm("one"), vm("one2"), vm("on"), vm("kms"), kms("/kms"), kms("/kms2"), kms("/kms/eu"), kms("/kms_seu")}
	for i, g := range all {
		for j, other := range all {
			for _, e := range other.Entries {
				if g.owns(e.ID) != (i == j) {
					t.Errorf("group %d owns %q of group %d: %v", i, e.ID, j, g.owns(e.ID))
				}
			}
		}
		if g.owns("b3a3a3e6-0000-4000-8000-000000000000") {
			t.Errorf("group %d owns an entry that somebody else made", i)
		}
	}
}

func TestEntriesRefuse(t *testing.T) {
	good := VM{Name: "one", Values: []refval.Values{values(refval.AMD(), snp.Measurement{1})}, Workload: workload, Fetchkey: program}
	if _, err := good.Entries(domain); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, want string
		change     func(*VM)
	}{
		{"no name", "name is", func(vm *VM) { vm.Name = "" }},
		{"dots", "name is", func(vm *VM) { vm.Name = "a.b" }},
		{"long name", "name is", func(vm *VM) { vm.Name = strings.Repeat("a", 64) }},
		{"no values", "no measurement", func(vm *VM) { vm.Values = nil }},
		{"reserved", "SPIFFE ID of the workload", func(vm *VM) { vm.Workload = spiffeid.RequireFromPath(domain, "/spire/server") }},
		{"other domain", "SPIFFE ID of the workload", func(vm *VM) { vm.Workload = spiffeid.RequireFromString("spiffe://other/vm") }},
		{"the alias itself", "SPIFFE ID of the workload", func(vm *VM) { vm.Workload = spiffeid.RequireFromPath(domain, "/node/one") }},
		{"the owner's name", "/node/owner", func(vm *VM) { vm.Name = "owner" }},
		{"the owner's alias", "SPIFFE ID of the workload", func(vm *VM) { vm.Workload = spiffeid.RequireFromPath(domain, OwnerPath) }},
		{"another alias", "SPIFFE ID of the workload", func(vm *VM) { vm.Workload = spiffeid.RequireFromPath(domain, "/node/two") }},
		{"the usual KMS", "SPIFFE ID of the workload", func(vm *VM) { vm.Workload = spiffeid.RequireFromPath(domain, KMSPath) }},
		{"the KMS", "SPIFFE ID of the workload", func(vm *VM) { vm.KMS = workload }},
		{"relative path", "path of the workload", func(vm *VM) { vm.Fetchkey.Path = "bin/fetchkey" }},
		{"unclean path", "path of the workload", func(vm *VM) { vm.Fetchkey.Path = "/bin/../bin/fetchkey" }},
		{"no digest", "SHA-256", func(vm *VM) { vm.Fetchkey.SHA256 = pins.Digest{} }},
	} {
		t.Run(c.name, func(t *testing.T) {
			vm := good
			c.change(&vm)
			if _, err := vm.Entries(domain); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v, want one with %q", err, c.want)
			}
		})
	}
}

func TestKMSEntry(t *testing.T) {
	kms := func(id, parent string, user User) (Group, error) {
		return KMS(spiffeid.RequireFromString("spiffe://"+id), spiffeid.RequireFromString("spiffe://"+parent), program, user, 0)
	}
	for _, c := range []struct {
		user User
		want string // after path and SHA-256
	}{{UID(1000), " unix:uid:1000"}, {User{}, " unix:uid:0"}, {AnyUser(), ""}} {
		group, err := kms("example.org/kms", "example.org/node/owner", c.user)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, s := range group.Entries[0].Selectors {
			got += " " + s.String()
		}
		if want := " unix:path:/bin/fetchkey unix:sha256:" + program.SHA256.String() + c.want; got != want {
			t.Errorf("selectors are%s, want%s", got, want)
		}
	}
	for _, good := range []string{"example.org/spire/agent/join_token/x", "example.org/owner"} {
		if _, err := kms("example.org/kms", good, User{}); err != nil {
			t.Errorf("below %s: %v", good, err)
		}
	}
	for _, bad := range []struct{ id, parent string }{
		{"other/kms", "example.org/node/owner"}, {"example.org/node/kms", "example.org/node/owner"},
		{"example.org/node/owner", "example.org/node/owner"}, {"example.org/spire/kms", "example.org/node/owner"},
		{"example.org", "example.org/node/owner"}, {"example.org/kms", "example.org/node/web1"},
		{"example.org/kms", "example.org/spire/server"}, {"example.org/kms", "example.org/kms"}, {"example.org/kms", "example.org"},
	} {
		if group, err := kms(bad.id, bad.parent, User{}); err == nil {
			t.Errorf("got %v, want an error", group.Entries)
		}
	}
}

// Whatever the flags of two runs say, no VM has the key server's ID.
func TestClash(t *testing.T) {
	vm, err := VM{Name: "one", Values: []refval.Values{values(refval.AMD(), snp.Measurement{1})}, Workload: workload, Fetchkey: program}.Entries(domain)
	if err != nil {
		t.Fatal(err)
	}
	kms, err := KMS(workload, spiffeid.RequireFromPath(domain, OwnerPath), program, User{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	server := func(g Group) map[string]*types.Entry {
		all := map[string]*types.Entry{}
		for _, e := range g.Entries {
			all[e.ID] = e.proto()
		}
		return all
	}
	if vm.clash(server(vm)) != nil || kms.clash(server(kms)) != nil {
		t.Error("a group clashes with itself")
	}
	for _, err := range []error{vm.clash(server(kms)), kms.clash(server(vm))} {
		if err == nil || !strings.Contains(err.Error(), "key server") {
			t.Errorf("got error %v, want one about the key server", err)
		}
	}
}

// TestPlan: a group's entries that are missing, differ, stay or are no longer wanted,
// and the entries of another release, which no plan touches.
func TestPlan(t *testing.T) {
	release := func(name string, end time.Time, digests ...snp.Measurement) Group {
		t.Helper()
		g, err := VM{Name: "one", Release: name, End: end, Values: []refval.Values{values(refval.AMD(), digests...)}, Workload: workload, Fetchkey: program}.Entries(domain)
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	words := func(changes []Change) (all []string) {
		for _, c := range changes {
			all = append(all, string(c.Action)+" "+strings.TrimPrefix(c.Entry.ID, releasePrefix)[:5])
		}
		return all
	}
	server := map[string]*types.Entry{}
	do := func(changes []Change) {
		for _, c := range changes {
			server[c.Entry.ID] = c.Entry.proto()
			if c.Action == Removed {
				delete(server, c.Entry.ID)
			}
		}
	}
	end := time.Date(2027, 1, 2, 3, 4, 5, 0, time.UTC)
	do(release("a", time.Time{}, snp.Measurement{1}).changes(server))
	do(release("b", time.Time{}, snp.Measurement{2}).changes(server))
	none, err := VM{Name: "one", Release: "a"}.NoEntries()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		group Group
		want  []string
	}{
		{release("a", time.Time{}, snp.Measurement{1}), []string{"unchanged one.a", "unchanged one.a"}},
		{release("a", end, snp.Measurement{1}), []string{"updated one.a", "updated one.a"}},
		{release("a", time.Time{}, snp.Measurement{3}), []string{"created one.a", "unchanged one.a", "removed one.a"}},
		{none, []string{"removed one.a", "removed one.a"}},
	} {
		if diff := cmp.Diff(c.want, words(c.group.changes(server))); diff != "" {
			t.Error(diff)
		}
	}
	do(release("a", end, snp.Measurement{1}).changes(server))
	if diff := cmp.Diff([]Release{{"a", end, 2}, {"b", time.Time{}, 2}}, releases("one", server)); diff != "" {
		t.Error(diff)
	}
	do(none.changes(server))
	if diff := cmp.Diff([]Release{{"b", time.Time{}, 2}}, releases("one", server)); diff != "" {
		t.Error(diff)
	}
	for _, name := range []string{"A", "a.b", strings.Repeat("r", maxRelease+1)} {
		if _, err := (VM{Name: "one", Release: name}).NoEntries(); err == nil {
			t.Errorf("release %q: got no error", name)
		}
	}
}

func TestApplyRefusesNoGroup(t *testing.T) {
	c, err := Dial("/nonexistent")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Apply(t.Context(), Group{}); err == nil || !strings.Contains(err.Error(), "empty") {
		t.Errorf("got error %v", err)
	}
	if err := c.Ready(t.Context()); err == nil {
		t.Error("a server that is not there is ready")
	}
}
