// Package admin creates, updates and removes the registration entries of rootvouch on
// a running SPIRE server.
//
// The entries of one VM, and of the key server:
//
//	spiffe://TD/node/NAME   parent spiffe://TD/spire/server   one for each measurement (see aliases); its agents, of any launch
//	workload ID             parent spiffe://TD/node/NAME      fetchkey, by path and SHA-256
//	KMS ID                  parent spiffe://TD/node/owner     rootvouch-kms, by path, SHA-256 and user
//
// A release of a VM has the same entries below spiffe://TD/node/NAME/RELEASE. So each release
// can be added, removed or given an end by itself.
//
// An agent's own ID names one launch, so no entry can have it as its parent. The node
// alias covers every agent whose selectors match.
package admin

import (
	"errors"
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/refval"
)

const (
	// idPrefix begins the ID of each entry that this package makes. It changes and removes only
	// those.
	idPrefix      = "rootvouch."
	vmPrefix      = idPrefix + "vm."
	releasePrefix = idPrefix + "release."
	kmsPrefix     = idPrefix + "kms"

	maxName    = 63 // bytes of a VM's name
	maxRelease = 24 // bytes of a release's name: an entry ID has at most 255 bytes

	// owner is the last segment of OwnerPath, so no VM can have this name.
	owner = "owner"
)

const (
	// OwnerPath is the path of the node alias of the agent on the owner's side. No VM can have it.
	OwnerPath = "/node/" + owner

	// KMSPath is the default path of the key server's SPIFFE ID.
	KMSPath = "/kms"
)

// Entry is a wanted registration entry.
type Entry struct {
	ID        string // entry ID, not a SPIFFE ID
	SPIFFEID  spiffeid.ID
	Parent    spiffeid.ID
	Selectors []Selector    // at least one; all must match
	TTL       time.Duration // of X509-SVIDs; zero: the server's default
	End       time.Time     // when the server removes the entry, to the second; zero: never
}

// Selector is one selector of an entry.
type Selector struct{ Type, Value string }

// String returns the selector as SPIRE writes it.
func (s Selector) String() string { return s.Type + ":" + s.Value }

// Group is a set of entries that belong together: those of one VM, or of the KMS.
// The zero Group is none, and Apply refuses it.
type Group struct {
	Entries []Entry
	owns    func(entryID string) bool // whether an entry on the server belongs to the group, wanted or not
}

// Executable is a workload's program as the unix attestor sees it.
type Executable struct {
	Path   string // absolute, inside its machine
	SHA256 pins.Digest
}

func (e Executable) selectors() ([]Selector, error) {
	if !path.IsAbs(e.Path) || path.Clean(e.Path) != e.Path {
		return nil, fmt.Errorf("path of the workload is %q, want a clean absolute one", e.Path)
	}
	if e.SHA256 == (pins.Digest{}) {
		return nil, errors.New("SHA-256 of the workload is missing")
	}
	return []Selector{{"unix", "path:" + e.Path}, {"unix", "sha256:" + e.SHA256.String()}}, nil
}

// User is the user that a workload runs as. The zero User is root.
type User struct {
	any bool
	uid uint32
}

// UID returns the user with that ID.
func UID(uid uint32) User { return User{uid: uid} }

// AnyUser returns every user: any user that can run the program is the workload.
func AnyUser() User { return User{any: true} }

func (u User) selectors() []Selector {
	if u.any {
		return nil
	}
	return []Selector{{"unix", fmt.Sprintf("uid:%d", u.uid)}}
}

// VM identifies a VM.
type VM struct {
	Name     string // names the node alias: lower-case letters, digits and hyphens
	Values   []refval.Values
	Workload spiffeid.ID // the identity of fetchkey: the SPIFFE ID on the disk's KMS record
	KMS      spiffeid.ID // the key server's ID, which Workload must not have; zero: that of KMSPath
	Fetchkey Executable  // with its path inside the initramfs
	TTL      time.Duration
	// Release is one of several sets of entries of this VM, each with a node alias
	// of its own: spiffe://TD/node/NAME/RELEASE. Empty: the VM has one set.
	Release string
	End     time.Time // of all entries; zero: none
}

// NodeID is the SPIFFE ID of a VM's node alias.
func NodeID(td spiffeid.TrustDomain, name string) (spiffeid.ID, error) {
	if err := checkName(name); err != nil {
		return spiffeid.ID{}, err
	}
	return spiffeid.FromSegments(td, "node", name)
}

// prefix begins the ID of each entry of the VM, or of its release. No name contains a dot.
func (vm VM) prefix() (string, error) {
	if err := checkName(vm.Name); err != nil {
		return "", err
	}
	if vm.Release == "" {
		return vmPrefix + vm.Name + ".", nil
	}
	if err := checkName(vm.Release); err != nil || len(vm.Release) > maxRelease {
		return "", fmt.Errorf("release is %q, want 1 to %d lower-case letters, digits and hyphens", vm.Release, maxRelease)
	}
	return releasePrefix + vm.Name + "." + vm.Release + ".", nil
}

// NoEntries returns a group without entries. Apply then removes all entries of the VM, or of
// its release.
func (vm VM) NoEntries() (Group, error) {
	prefix, err := vm.prefix()
	if err != nil {
		return Group{}, err
	}
	return Group{owns: func(id string) bool { return strings.HasPrefix(id, prefix) }}, nil
}

// Entries returns the entries of a VM, or of its release.
func (vm VM) Entries(td spiffeid.TrustDomain) (Group, error) {
	group, err := vm.NoEntries()
	if err != nil {
		return Group{}, err
	}
	prefix, err := vm.prefix()
	if err != nil {
		return Group{}, err
	}
	node, err := NodeID(td, vm.Name)
	if err == nil && vm.Release != "" {
		node, err = spiffeid.FromSegments(td, "node", vm.Name, vm.Release)
	}
	if err != nil {
		return Group{}, err
	}
	kms := vm.KMS
	if kms.IsZero() {
		kms = spiffeid.RequireFromPath(td, KMSPath)
	}
	if !vm.Workload.MemberOf(td) || isReserved(vm.Workload) || vm.Workload == kms {
		return Group{}, fmt.Errorf("SPIFFE ID of the workload is %q, want one of %s outside /spire and /node, and other than the key server's, %s", vm.Workload, td, kms)
	}
	for _, alias := range aliases(vm.Values) {
		group.Entries = append(group.Entries, Entry{
			ID:        prefix + alias.id,
			SPIFFEID:  node,
			Parent:    spiffeid.RequireFromPath(td, "/spire/server"),
			Selectors: alias.selectors,
			End:       vm.End,
		})
	}
	if len(group.Entries) == 0 {
		return Group{}, errors.New("reference values have no measurement")
	}
	selectors, err := vm.Fetchkey.selectors()
	if err != nil {
		return Group{}, err
	}
	group.Entries = append(group.Entries, Entry{
		ID: prefix + "workload", SPIFFEID: vm.Workload, Parent: node, Selectors: selectors, TTL: vm.TTL, End: vm.End,
	})
	return group, nil
}

// KMS returns the entry of rootvouch-kms, a workload that user runs below the agent (or node
// alias) parent.
//
// Every user of the agent's machine reaches its Workload API, and can run any readable program.
// So path and SHA-256 alone would give each of them the identity that VMs trust with their
// evidence.
func KMS(id, parent spiffeid.ID, program Executable, user User, ttl time.Duration) (Group, error) {
	selectors, err := program.selectors()
	if err != nil {
		return Group{}, err
	}
	return KMSBySelectors(id, parent, append(selectors, user.selectors()...), ttl)
}

// KMSBySelectors is KMS for a key server that other selectors identify, such as those of its
// pod.
func KMSBySelectors(id, parent spiffeid.ID, selectors []Selector, ttl time.Duration) (Group, error) {
	if len(selectors) == 0 {
		return Group{}, errors.New("the key server has no selectors")
	}
	if isReserved(id) || id.IsZero() {
		return Group{}, fmt.Errorf("SPIFFE ID of the KMS is %q, want one outside /spire and /node", id)
	}
	if !parent.MemberOf(id.TrustDomain()) || parent == id || !isOwners(parent) {
		return Group{}, fmt.Errorf("parent of the KMS %s is %q, want the owner's agent below /spire/agent of its trust domain, or an alias of it such as %s", id, parent, OwnerPath)
	}
	// SPIRE accepts letters, digits, dots, hyphens and underscores.
	entryID := kmsPrefix + strings.NewReplacer("_", "_u", "/", "_s").Replace(id.Path())
	return Group{
		Entries: []Entry{{ID: entryID, SPIFFEID: id, Parent: parent, Selectors: selectors, TTL: ttl}},
		owns:    func(id string) bool { return id == entryID },
	}, nil
}

// isReserved reports whether no workload may have an ID. Reserved are SPIRE's own IDs, and node
// aliases, which are parents of other entries.
func isReserved(id spiffeid.ID) bool {
	for _, path := range []string{"/spire", "/node"} {
		if id.Path() == path || strings.HasPrefix(id.Path(), path+"/") {
			return true
		}
	}
	return id.Path() == ""
}

// isOwners reports whether an ID may be the parent of the owner's workloads. The alias of a VM
// may not.
func isOwners(parent spiffeid.ID) bool {
	return !isReserved(parent) || parent.Path() == OwnerPath || strings.HasPrefix(parent.Path(), "/spire/agent/")
}

// checkName refuses a name that no VM can have.
func checkName(name string) error {
	if name == "" || len(name) > maxName || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
		return fmt.Errorf("name is %q, want 1 to %d lower-case letters, digits and hyphens", name, maxName)
	}
	if name == owner {
		return fmt.Errorf("name is %q, want another: %s is the agent on the owner's side", name, OwnerPath)
	}
	return nil
}
