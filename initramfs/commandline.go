package initramfs

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/rootvouch/rootvouch/boot/bootconfig"
)

// CommandLine returns the kernel command line that boot.json of an initramfs
// names, and whether the initramfs has a boot.json. Files that do not begin as
// ours do have none.
func CommandLine(data []byte) (line string, ok bool, err error) {
	if len(data) < 4 || binary.LittleEndian.Uint32(data) != frameMagic {
		return "", false, nil
	}
	p, err := split(data)
	if err != nil {
		return "", false, nil // another program's zstd frame
	}
	if !bytes.Contains(p.config, []byte(bootconfig.Path[1:])) {
		return "", false, nil
	}
	text, err := p.readConfig()
	if err != nil {
		return "", false, fmt.Errorf("reading initramfs: %w", err)
	}
	c, err := bootconfig.Decode(text)
	if err != nil {
		return "", false, fmt.Errorf("reading initramfs: %w", err)
	}
	return c.CommandLine, true, nil
}
