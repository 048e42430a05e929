package admin

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Role is what a peer may do. Each role includes all lower roles.
type Role int

// The roles.
const (
	Nobody  Role = iota
	Read         // see records, releases and the state of the server
	Operate      // register, change, enable and disable; a backup
	Destroy      // delete, purge, export; the master key
)

func (r Role) String() string {
	return [...]string{"nobody", "read", "operate", "destroy"}[r]
}

// Members are the users and groups with a role.
type Members struct {
	Users  []uint32
	Groups []uint32
}

// Roles lists the members of each role. Root and the server's own user have all roles. The zero
// value gives no other user a role.
type Roles struct{ Read, Operate, Destroy Members }

// RolesByName is Roles as it is written in a configuration.
type RolesByName struct {
	Read    *Names `json:"read,omitempty"`
	Operate *Names `json:"operate,omitempty"`
	Destroy *Names `json:"destroy,omitempty"`
}

// Names are users and groups. Each is a name or a number.
type Names struct {
	Users  []string `json:"users,omitempty"`
	Groups []string `json:"groups,omitempty"`
}

// Resolve looks the names up. A name unknown to the system is an error.
func (r RolesByName) Resolve() (Roles, error) {
	var roles Roles
	var errs []error
	for _, x := range []struct {
		name  string
		names *Names
		to    *Members
	}{{"read", r.Read, &roles.Read}, {"operate", r.Operate, &roles.Operate}, {"destroy", r.Destroy, &roles.Destroy}} {
		if x.names == nil {
			continue
		}
		for _, name := range x.names.Users {
			id, err := number(name, func() (string, error) {
				u, err := user.Lookup(name)
				if err != nil {
					return "", err
				}
				return u.Uid, nil
			})
			errs, x.to.Users = append(errs, role(x.name, err)), append(x.to.Users, id)
		}
		for _, name := range x.names.Groups {
			id, err := number(name, func() (string, error) {
				g, err := user.LookupGroup(name)
				if err != nil {
					return "", err
				}
				return g.Gid, nil
			})
			errs, x.to.Groups = append(errs, role(x.name, err)), append(x.to.Groups, id)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return Roles{}, err
	}
	return roles, nil
}

func role(name string, err error) error {
	if err != nil {
		return fmt.Errorf("role %s: %w", name, err)
	}
	return nil
}

// number parses an ID, or looks a name up.
func number(name string, lookup func() (string, error)) (uint32, error) {
	text := name
	if _, err := strconv.ParseUint(name, 10, 32); err != nil {
		if text, err = lookup(); err != nil {
			return 0, err
		}
	}
	id, err := strconv.ParseUint(text, 10, 32)
	return uint32(id), err
}

// open reports whether a user other than root and the server's own user has a role.
func (r Roles) open() bool {
	return slices.ContainsFunc([]Members{r.Read, r.Operate, r.Destroy}, func(m Members) bool { return len(m.Users)+len(m.Groups) > 0 })
}

// of returns the role of a user with these groups.
func (r Roles) of(uid uint32, groups []uint32) Role {
	if uid == 0 || uid == uint32(os.Geteuid()) {
		return Destroy
	}
	for _, x := range []struct {
		role    Role
		members Members
	}{{Destroy, r.Destroy}, {Operate, r.Operate}, {Read, r.Read}} {
		if slices.Contains(x.members.Users, uid) || slices.ContainsFunc(groups, func(g uint32) bool { return slices.Contains(x.members.Groups, g) }) {
			return x.role
		}
	}
	return Nobody
}

// maxGroups bounds a process's groups (NGROUPS_MAX, limits.h of Linux).
const maxGroups = 65536

// peerGroups returns the supplementary groups that a peer had when it connected (SO_PEERGROUPS,
// unix(7)).
func peerGroups(fd int) ([]uint32, error) {
	for n := 64; n <= maxGroups; n *= 4 {
		groups := make([]uint32, n)
		size := uint32(n * 4)
		_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_PEERGROUPS,
			uintptr(unsafe.Pointer(&groups[0])), uintptr(unsafe.Pointer(&size)), 0)
		switch errno {
		case 0:
			return groups[:size/4], nil
		case unix.ERANGE:
		default:
			return nil, fmt.Errorf("asking for a peer's groups: %w", errno)
		}
	}
	return nil, errors.New("asking for a peer's groups: there are too many")
}

// describe names a peer for the log: its user, its login user (loginuid, which stays when a
// process changes its user), and its process. No decision depends on the last two.
func describe(cred unix.Ucred) string {
	text := "uid=" + named(cred.Uid)
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/loginuid", cred.Pid))
	if err == nil {
		if login, err := strconv.ParseUint(strings.TrimSpace(string(data)), 10, 32); err == nil && login != 1<<32-1 {
			text += " login=" + named(uint32(login))
		}
	}
	return fmt.Sprintf("%s pid=%d", text, cred.Pid)
}

func named(uid uint32) string {
	number := strconv.FormatUint(uint64(uid), 10)
	u, err := user.LookupId(number)
	if err != nil {
		return number
	}
	return number + "(" + u.Username + ")"
}
