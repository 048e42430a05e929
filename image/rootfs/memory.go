package rootfs

// memoryPerName is the measured memory of a name in bytes: an inode, and an entry of its
// directory. The name itself is extra. So are attributes, once for all files that have the
// same.
const memoryPerName = 150

// Memory estimates the memory in bytes that the tree needs, beyond that of every build.
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
