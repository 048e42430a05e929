package initramfs

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"path"
	"slices"

	"github.com/rootvouch/rootvouch/boot/bootconfig"
	"github.com/rootvouch/rootvouch/boot/cmdline"
	"github.com/rootvouch/rootvouch/initramfs/cpio"
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

// checkBarred refuses a base with a module that the command line bars: the kernel
// would not load it.
func checkBarred(base []cpio.Entry, line string) error {
	for _, d := range cmdline.Barred(line) {
		name := path.Join(bootconfig.ModulesDir, d.Name+".ko")[1:]
		if slices.ContainsFunc(base, func(e cpio.Entry) bool { return e.Name == name }) {
			return fmt.Errorf("base has the module %s, and the command line of the boot configuration bars it: give \"initramfs config\" the --drivers that \"initramfs build\" got", d.Name)
		}
	}
	return nil
}
