package intake

import (
	"encoding/base64"
	"net/url"
	"strings"

	"github.com/rootvouch/rootvouch/image/erofs"
)

// foreign are prefixes of extended attributes that filesystems and operating systems keep for
// themselves. They mean nothing to a VM, so the readers leave them out.
var foreign = []string{"com.apple.", "btrfs.", "bcachefs.", "ceph.", "lustre.", "glusterfs.", "zfs."}

// xattr adds an extended attribute to all, and makes the map if it is nil.
func (r *Reader) xattr(all map[string]string, name, value string) (map[string]string, error) {
	if r.drops(r.DropXattrs, name) {
		return all, nil
	}
	if !erofs.KnowsXattr(name) {
		for _, prefix := range foreign {
			if strings.HasPrefix(name, prefix) {
				return all, nil
			}
		}
		return all, &NotKept{Xattr: name, Reason: "EROFS knows user, trusted, security and POSIX ACLs"}
	}
	if old, ok := all[name]; ok && old != value {
		return all, &NotKept{Xattr: name, Reason: "it has two values"}
	}
	if all == nil {
		all = map[string]string{}
	}
	all[name] = value
	return all, nil
}

// gnuNames reverses GNU tar's escapes in names of attributes (xheader.c, xattr_encode_keyword):
// the name of a PAX record cannot contain "=".
var gnuNames = strings.NewReplacer("%3D", "=", "%25", "%")

// xattrOf turns a PAX record into an extended attribute. If the record is not one, name is "".
func xattrOf(record, text string) (name, value string, err error) {
	switch {
	case strings.HasPrefix(record, "SCHILY.xattr."):
		return gnuNames.Replace(strings.TrimPrefix(record, "SCHILY.xattr.")), text, nil
	case strings.HasPrefix(record, "LIBARCHIVE.xattr."): // name percent-encoded, value in base64
		if name, err = url.PathUnescape(strings.TrimPrefix(record, "LIBARCHIVE.xattr.")); err != nil {
			return "", "", err
		}
		data, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(text, "="))
		return name, string(data), err
	case record == "RHT.security.selinux":
		return "security.selinux", strings.TrimSuffix(text, "\x00") + "\x00", nil
	case record == "SCHILY.acl.access", record == "SCHILY.acl.default":
		value, err = encodeACL(text)
		return "system.posix_acl_" + strings.TrimPrefix(record, "SCHILY.acl."), value, err
	}
	return "", "", nil
}

// known reports whether the header already has a PAX record's value, or the record means
// nothing to a VM on a read-only filesystem.
func known(record string) bool {
	switch record {
	case "path", "linkpath", "size", "uid", "gid", "mtime", // in the header
		"uname", "gname", // names of the numbers
		"atime", "ctime", "LIBARCHIVE.creationtime", // EROFS has one time
		"comment", "charset", "hdrcharset",
		"SCHILY.dev", "SCHILY.ino", "SCHILY.nlink", "SCHILY.devmajor", "SCHILY.devminor", "SCHILY.realsize",
		"SCHILY.filetype", "SCHILY.tarfiletype", "SCHILY.devminorbits", "SCHILY.offset", "SCHILY.release", "SCHILY.archtype",
		"SCHILY.fflags",          // such as immutable, which every file is in a read-only filesystem
		"GNU.dumpdir",            // names in a directory, for incremental backups
		"LIBARCHIVE.symlinktype": // for Windows
		return true
	}
	for _, prefix := range []string{"GNU.sparse.", "MSWINDOWS.", "APK-TOOLS."} { // holes; attributes of Windows; checksums of a package
		if strings.HasPrefix(record, prefix) {
			return true
		}
	}
	return false
}
