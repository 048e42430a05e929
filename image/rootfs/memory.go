package rootfs

// memoryPerName is what a name takes in bytes, measured: an inode and an entry of
// its directory. The name itself comes on top, and attributes, once for all that
// have the same.
const memoryPerName = 150

// Memory estimates the bytes of memory that the tree takes, beyond what every
// build takes.
func (t *Tree) Memory() int64 {
	var total int64
	for encoded := range t.xattrs {
		total += int64(len(encoded))
	}
	var walk func(n *inode)
	walk = func(n *inode) {
		total += memoryPerName
		if target, ok := n.body.(symlink); ok {
			total += int64(len(target))
		}
		for name, child := range n.entries() {
			total += int64(len(name))
			walk(child)
		}
	}
	walk(t.root)
	return total
}
