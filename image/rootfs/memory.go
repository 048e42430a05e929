package rootfs

// memoryPerName is what a name takes in bytes, measured: an inode, an entry of
// its directory, its name. Attributes come on top, once for all that have the
// same.
const memoryPerName = 160

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
		for _, child := range n.entries() {
			walk(child)
		}
	}
	walk(t.root)
	return total
}
