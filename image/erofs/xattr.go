package erofs

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// xattrUnit is the alignment of attributes, and the unit of their sizes, in bytes.
const xattrUnit = 4

// Limits of extended attributes in bytes.
const (
	maxXattrName  = 255     // XATTR_NAME_MAX (include/uapi/linux/limits.h): including the prefix
	maxXattrNames = 1 << 16 // XATTR_LIST_MAX, each name with a zero byte; longer lists cannot be read
	maxXattrValue = 1<<16 - 1
	maxXattrs     = 1 << 17 // of one inode, more than any file system of Linux keeps; the format has room for 1<<18
)

// xattrIndex splits an attribute's name into the index of its prefix
// (EROFS_XATTR_INDEX_*) and the rest.
func xattrIndex(name string) (index byte, rest string, ok bool) {
	switch name {
	case "system.posix_acl_access":
		return 2, "", true
	case "system.posix_acl_default":
		return 3, "", true
	}
	for _, p := range []struct {
		prefix string
		index  byte
	}{{"user.", 1}, {"trusted.", 4}, {"security.", 6}} {
		if rest, ok := strings.CutPrefix(name, p.prefix); ok && rest != "" {
			return p.index, rest, true
		}
	}
	return 0, "", false
}

// KnowsXattr reports whether the format can hold an attribute of that name.
func KnowsXattr(name string) bool {
	_, _, ok := xattrIndex(name)
	return ok
}

// EncodeXattrs encodes extended attributes, full names and values, in the order of their names
// (struct erofs_xattr_entry). An error names the attribute that the format cannot hold.
func EncodeXattrs(xattrs map[string]string) (string, error) {
	var b []byte
	names := 0
	for _, name := range slices.Sorted(maps.Keys(xattrs)) {
		value := xattrs[name]
		index, rest, ok := xattrIndex(name)
		if !ok {
			return "", fmt.Errorf("extended attribute %q cannot be kept: EROFS knows user, trusted, security and POSIX ACLs", name)
		}
		if len(name) > maxXattrName || len(value) > maxXattrValue {
			return "", fmt.Errorf("extended attribute %q has a name of %d and a value of %d bytes, want at most %d and %d",
				name, len(name), len(value), maxXattrName, maxXattrValue)
		}
		if names += len(name) + 1; names > maxXattrNames {
			return "", fmt.Errorf("names of extended attributes have more than %d bytes", maxXattrNames)
		}
		b = append(b, byte(len(rest)), index)
		b = le.AppendUint16(b, uint16(len(value)))
		b = append(b, rest...)
		b = append(b, value...)
		for len(b)%xattrUnit != 0 {
			b = append(b, 0)
		}
	}
	if len(b) > maxXattrs {
		return "", fmt.Errorf("extended attributes have %d bytes, want at most %d", len(b), maxXattrs)
	}
	return string(b), nil
}
