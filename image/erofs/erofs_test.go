package erofs

import (
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
)

// The expected bytes are written from struct definitions of Linux 6.12,
// fs/erofs/erofs_fs.h. That the kernel, fsck.erofs and go-erofs read what is made
// of them is shown in package image/rootfs.

// fromHex joins hex with spaces between fields.
func fromHex(t *testing.T, fields ...string) string {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(strings.Join(fields, ""), " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestSuperblock(t *testing.T) {
	s := Superblock{Root: 36, Inodes: 5, Blocks: 0x10203, Built: Time{-2, 3}, Chunked: true}
	want := fromHex(t,
		"e2e1f5e0 00000000 02000000 0c 00 2400",      // magic, checksum, feature_compat, blkszbits, sb_extslots, root_nid
		"0500000000000000 feffffffffffffff 03000000", // inos, build_time, build_time_nsec
		"03020100 00000000 00000000",                 // blocks, meta_blkaddr, xattr_blkaddr
		strings.Repeat("00", 32),                     // uuid, volume_name
		"04000000", strings.Repeat("00", 44),         // feature_incompat, the rest
	)
	if got := string(s.Append(nil)); got != want {
		t.Errorf("got %x, want %x", got, want)
	}
	s.Chunked = false
	if got := s.Append(nil)[0x50:0x54]; string(got) != "\x00\x00\x00\x00" {
		t.Errorf("without block maps: feature_incompat is %x", got)
	}
}

func TestInode(t *testing.T) {
	built := Time{1700000000, 5}
	compact := Inode{Mode: TypeRegular | 0o644, UID: 1000, GID: 65535, Links: 65535, Size: 1<<32 - 1, Time: built, Serial: 7, Layout: Inline, U: 0xa1a2a3a4}
	for _, c := range []struct {
		name   string
		change func(n *Inode)
		want   string // of the first 32 bytes
		size   int
	}{
		{"compact", func(n *Inode) {}, "0400 0000 a481 ffff ffffffff 00000000 a4a3a2a1 07000000 e803 ffff 00000000", 32},
		{"wide UID", func(n *Inode) { n.UID = 65536 }, "0500 0000 a481 0000 ffffffff00000000 a4a3a2a1 07000000 00000100 ffff0000", 64},
		{"wide GID", func(n *Inode) { n.GID = 65536 }, "0500 0000 a481 0000 ffffffff00000000 a4a3a2a1 07000000 e8030000 00000100", 64},
		{"many links", func(n *Inode) { n.Links++ }, "0500 0000 a481 0000 ffffffff00000000 a4a3a2a1 07000000 e8030000 ffff0000", 64},
		{"large", func(n *Inode) { n.Size++ }, "0500 0000 a481 0000 0000000001000000 a4a3a2a1 07000000 e8030000 ffff0000", 64},
		{"other time", func(n *Inode) { n.Time.Nanoseconds++ }, "0500 0000 a481 0000 ffffffff00000000 a4a3a2a1 07000000 e8030000 ffff0000", 64},
		{"block map", func(n *Inode) { n.Layout = BlockMap }, "0800 0000 a481 ffff ffffffff 00000000 a4a3a2a1 07000000 e803 ffff 00000000", 32},
		{"attributes", func(n *Inode) { n.Xattrs = "12345678" }, "0400 0300 a481 ffff ffffffff 00000000 a4a3a2a1 07000000 e803 ffff 00000000", 32 + 12 + 8},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := compact
			c.change(&n)
			got := string(n.Append(nil, built))
			if want := fromHex(t, c.want); got[:32] != want {
				t.Errorf("got %x, want %x", got[:32], want)
			}
			if len(got) != c.size || n.HeadSize(built) != c.size {
				t.Errorf("got %d bytes and HeadSize %d, want %d", len(got), n.HeadSize(built), c.size)
			}
		})
	}
	n := compact
	n.Time = Time{-1, 999999999}
	want := fromHex(t, "ffffffffffffffff ffc99a3b ffff0000", strings.Repeat("00", 16)) // i_mtime, i_mtime_nsec, i_nlink
	if got := string(n.Append(nil, built)[32:]); got != want {
		t.Errorf("second half: got %x, want %x", got, want)
	}
}

func TestXattrs(t *testing.T) {
	got, err := EncodeXattrs(map[string]string{
		"user.b": "v", "security.capability": "caps", "system.posix_acl_access": "acl", "system.posix_acl_default": "", "trusted.x.y": "12",
	})
	want := fromHex(t,
		"0a 06 0400"+hex.EncodeToString([]byte("capabilitycaps"))+"0000",
		"00 02 0300"+hex.EncodeToString([]byte("acl"))+"00",
		"00 03 0000",
		"03 04 0200"+hex.EncodeToString([]byte("x.y12"))+"000000",
		"01 01 0100"+hex.EncodeToString([]byte("bv"))+"0000",
	)
	if err != nil || got != want {
		t.Errorf("got %x, %v, want %x", got, err, want)
	}
	if got, err := EncodeXattrs(nil); got != "" || err != nil {
		t.Errorf("none: got %q, %v", got, err)
	}
	for name, refused := range map[string]map[string]string{
		"no namespace":      {"capability": ""},
		"another namespace": {"btrfs.compression": ""},
		"another ACL":       {"system.nfs4_acl": ""},
		"empty name":        {"user.": ""},
		"longer ACL name":   {"system.posix_acl_access.x": ""},
		"long name":         {"user." + strings.Repeat("n", 256): ""},
		"long value":        {"user.a": strings.Repeat("v", 1<<16)},
		"too many":          {"user.a": strings.Repeat("v", 60000), "user.b": strings.Repeat("v", 60000), "user.c": strings.Repeat("v", 20000)},
	} {
		if _, err := EncodeXattrs(refused); err == nil {
			t.Errorf("%s: got no error", name)
		}
	}
}

func TestDirents(t *testing.T) {
	got := string(AppendDirents([]byte("x"), []Dirent{{".", 36, TypeDirectory}, {"..", 36, TypeDirectory}, {"sh", 1<<32 | 5, TypeSymlink | 0o777}}))
	want := "x" + fromHex(t,
		"2400000000000000 2400 02 00", "2400000000000000 2500 02 00", "0500000001000000 2700 07 00",
		hex.EncodeToString([]byte("...sh")))
	if got != want {
		t.Errorf("got %x, want %x", got, want)
	}
	for mode, want := range map[uint16]byte{
		TypeRegular: 1, TypeDirectory: 2, TypeCharDevice: 3, TypeBlockDevice: 4, TypeFIFO: 5, TypeSocket: 6, TypeSymlink: 7, 0: 0,
	} {
		if got := fileType(mode | 0o7777); got != want {
			t.Errorf("type %#o: got %d, want %d", mode, got, want)
		}
	}
}

// TestDirentsInBlock fills blocks to the last byte.
func TestDirentsInBlock(t *testing.T) {
	for _, c := range []struct{ count, length, fit, size int }{
		{0, 10, 0, 0},
		{3, 10, 3, 3 * 22},
		{1000, 4, 256, 4096}, // 256 entries of 16 bytes
		{1000, 5, 240, 240 * 17},
		{1000, MaxName, 15, 15 * 267},
	} {
		t.Run(fmt.Sprint(c), func(t *testing.T) {
			fit, size := DirentsInBlock(c.count, func(int) string { return strings.Repeat("n", c.length) })
			if fit != c.fit || size != c.size {
				t.Errorf("got %d entries in %d bytes, want %d in %d", fit, size, c.fit, c.size)
			}
		})
	}
}
