package intake

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// POSIX ACLs in extended attributes (Linux,
// include/uapi/linux/posix_acl_xattr.h and posix_acl.h).
const (
	aclVersion  = 2
	aclUserObj  = 0x01
	aclUser     = 0x02
	aclGroupObj = 0x04
	aclGroup    = 0x08
	aclMask     = 0x10
	aclOther    = 0x20
	aclNoID     = 1<<32 - 1
)

type aclEntry struct {
	tag, permissions uint16
	id               uint32
}

// encodeACL encodes a text ACL of a tar (acl(5), with star's numeric ID as a fourth field or a
// numeric name) as the attribute's value. It refuses a user or group with a name but no number,
// because the number of a name depends on the machine.
func encodeACL(text string) (string, error) {
	var entries []aclEntry
	for line := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == '\n' || r == ',' }) {
		line, _, _ = strings.Cut(line, "#")
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		e, err := parseACLEntry(line)
		if err != nil {
			return "", fmt.Errorf("ACL entry %q: %w", line, err)
		}
		entries = append(entries, e)
	}
	if len(entries) == 0 {
		return "", fmt.Errorf("ACL %q has no entry", text)
	}
	slices.SortFunc(entries, func(a, b aclEntry) int {
		if a.tag != b.tag {
			return int(a.tag) - int(b.tag)
		}
		return int(int64(a.id) - int64(b.id))
	})
	le := binary.LittleEndian
	out := le.AppendUint32(nil, aclVersion)
	for _, e := range entries {
		out = le.AppendUint16(out, e.tag)
		out = le.AppendUint16(out, e.permissions)
		out = le.AppendUint32(out, e.id)
	}
	return string(out), nil
}

func parseACLEntry(line string) (aclEntry, error) {
	fields := strings.Split(line, ":")
	if len(fields) < 3 || len(fields) > 4 {
		return aclEntry{}, fmt.Errorf("got %d fields, want 3 or 4", len(fields))
	}
	e := aclEntry{id: aclNoID}
	named := fields[1] != ""
	switch kind := fields[0]; {
	case (kind == "user" || kind == "u") && named:
		e.tag = aclUser
	case kind == "user" || kind == "u":
		e.tag = aclUserObj
	case (kind == "group" || kind == "g") && named:
		e.tag = aclGroup
	case kind == "group" || kind == "g":
		e.tag = aclGroupObj
	case (kind == "mask" || kind == "m") && !named:
		e.tag = aclMask
	case (kind == "other" || kind == "o") && !named:
		e.tag = aclOther
	default:
		return aclEntry{}, fmt.Errorf("got %q, want user, group, mask or other", kind)
	}
	if named {
		number := fields[1]
		if len(fields) == 4 {
			number = fields[3]
		}
		id, err := strconv.ParseUint(number, 10, 32)
		if err != nil || id == aclNoID {
			return aclEntry{}, fmt.Errorf("%q has no number", fields[1])
		}
		e.id = uint32(id)
	}
	if len(fields[2]) != 3 {
		return aclEntry{}, fmt.Errorf("permissions are %q, want three of r, w, x, -", fields[2])
	}
	for i, letter := range "rwx" {
		switch fields[2][i] {
		case byte(letter):
			e.permissions |= 4 >> i
		case '-':
		default:
			return aclEntry{}, fmt.Errorf("permissions are %q, want three of r, w, x, -", fields[2])
		}
	}
	return e, nil
}
