package rootfs

// Memory in bytes for each name, measured: an inode here, an entry in each of the
// two trees that go-erofs 0.3.1 keeps, paths and maps. Metadata, to which the data
// of small files belongs, it gathers before it writes them.
const (
	memoryPerName  = 1100
	memoryPerSmall = 512 // at most, on the average: the rest of a block holds others
)

// Memory estimates the bytes of memory that writing the tree takes, beyond what
// every build takes.
func (t *Tree) Memory() int64 {
	var total int64
	var walk func(n *Inode)
	walk = func(n *Inode) {
		total += memoryPerName
		if n.Size < BlockSize {
			total += min(n.Size, memoryPerSmall)
		}
		for name, value := range n.Xattrs {
			total += int64(len(name) + len(value))
		}
		for _, child := range n.entries {
			walk(child)
		}
	}
	walk(t.root)
	return total
}
