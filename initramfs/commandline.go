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

// BootConfig returns the boot.json of an initramfs, and whether the initramfs has
// one. A file that does not begin as ours do has none.
func BootConfig(data []byte) (c bootconfig.Config, ok bool, err error) {
	if len(data) < 4 || binary.LittleEndian.Uint32(data) != frameMagic {
		return c, false, nil
	}
	p, err := split(data)
	if err != nil {
		return c, false, nil // another program's zstd frame
	}
	if !bytes.Contains(p.config, []byte(bootconfig.Path[1:])) {
		return c, false, nil
	}
	text, err := p.readConfig()
	if err == nil {
		c, err = bootconfig.Decode(text)
	}
	if err != nil {
		return bootconfig.Config{}, false, fmt.Errorf("reading initramfs: %w", err)
	}
	return c, true, nil
}

// CommandLine returns the kernel command line in the boot.json of an initramfs, and
// whether the initramfs has a boot.json.
func CommandLine(data []byte) (line string, ok bool, err error) {
	c, ok, err := BootConfig(data)
	return c.CommandLine, ok, err
}

// checkBarred refuses a base with a module that the command line bars, because the
// kernel would not start the module.
func checkBarred(base []cpio.Entry, line string) error {
	for _, d := range cmdline.Barred(line) {
		name := path.Join(bootconfig.ModulesDir, d.Name+".ko")[1:]
		if slices.ContainsFunc(base, func(e cpio.Entry) bool { return e.Name == name }) {
			return fmt.Errorf("base has the module %s, and the command line of the boot configuration bars it: give \"initramfs config\" the --drivers that \"initramfs build\" got", d.Name)
		}
	}
	return nil
}
