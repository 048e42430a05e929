package explain

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"

	"github.com/rootvouch/rootvouch/snp/launch"
)

// option is one value that an input may have. The first option of each input
// is the given one.
type option[T any] struct {
	value T
	label string
}

// launcher is a VMM with the generation of its VMSAs.
type launcher struct {
	vmm        launch.VMM
	generation launch.Generation
}

func (l launcher) String() string {
	if l.vmm == launch.QEMU && l.generation != launch.CurrentVMSA {
		return fmt.Sprintf("%v with the %v VMSA", l.vmm, l.generation)
	}
	return l.vmm.String()
}

// neighbourhood holds the options of every input.
type neighbourhood struct {
	question     Question
	firmware     []option[*firmware]
	kernels      []option[*[sha256.Size]byte] // nil: no kernel hashes
	initrds      []option[[sha256.Size]byte]
	commandLines []option[[sha256.Size]byte]
	launchers    []option[launcher]
	features     []option[uint64]
	cpus         []option[launch.CPU]
	unusable     []string
}

func newNeighbourhood(q Question) (*neighbourhood, error) {
	n := &neighbourhood{question: q}
	if err := n.addFirmware(); err != nil {
		return nil, err
	}
	if err := n.addKernel(); err != nil {
		return nil, err
	}
	n.addVCPU()
	return n, nil
}

func (n *neighbourhood) addFirmware() error {
	q := n.question
	add := func(label string, in launch.Inputs) error {
		base, err := in.Base()
		if err != nil {
			return err
		}
		n.firmware = append(n.firmware, option[*firmware]{newFirmware(base), label})
		return nil
	}
	given := "the given file"
	if q.Inputs.FirmwareDigest != nil {
		given = "the given digest"
	}
	if err := add(given, q.Inputs); err != nil {
		return err
	}
	in := q.Inputs
	in.FirmwareDigest = nil
	if q.Inputs.FirmwareDigest != nil {
		if err := add("the contents of the given file", in); err != nil {
			return err
		}
	}
	for _, f := range q.Firmware {
		in.Firmware = f.Firmware
		if err := add(f.Name, in); err != nil {
			n.unusable = append(n.unusable, fmt.Sprintf("firmware %s: %v", f.Name, err))
		}
	}
	return nil
}

func (n *neighbourhood) addKernel() error {
	q := n.question
	given := q.Inputs.Hashes
	if q.Inputs.Mode == launch.SNPSVSM {
		n.kernels = []option[*[sha256.Size]byte]{{nil, "none"}}
		return nil
	}
	empty := sha256.Sum256(nil)
	if given == nil {
		h, err := launch.HashCommandLine(q.CommandLine)
		if err != nil {
			return err
		}
		n.kernels = append(n.kernels, option[*[sha256.Size]byte]{nil, "no kernel hashes"})
		n.initrds = append(n.initrds, option[[sha256.Size]byte]{empty, "none"})
		n.commandLines = append(n.commandLines, option[[sha256.Size]byte]{h, fmt.Sprintf("%q", q.CommandLine)})
	} else {
		n.kernels = append(n.kernels, option[*[sha256.Size]byte]{&given.Kernel, "the given file"}, option[*[sha256.Size]byte]{nil, "no kernel hashes"})
		n.initrds = append(n.initrds, option[[sha256.Size]byte]{given.Initrd, "the given file"})
		n.commandLines = append(n.commandLines, option[[sha256.Size]byte]{given.CommandLine, fmt.Sprintf("%q", q.CommandLine)})
	}
	for _, b := range q.Kernels {
		n.kernels = append(n.kernels, option[*[sha256.Size]byte]{&b.SHA256, b.Name})
	}
	n.initrds = append(n.initrds, option[[sha256.Size]byte]{empty, "none"})
	for _, b := range q.Initrds {
		n.initrds = append(n.initrds, option[[sha256.Size]byte]{b.SHA256, b.Name})
	}
	for _, c := range commandLines(q.CommandLine, q.CommandLines) {
		n.commandLines = append(n.commandLines, option[[sha256.Size]byte]{sha256.Sum256([]byte(c.value)), c.label})
	}
	n.initrds = distinct(n.initrds)
	n.commandLines = distinct(n.commandLines)
	return nil
}

// commandLines lists the values that a launcher may have hashed instead of given,
// with their NUL if they have one.
func commandLines(given string, others []string) []option[string] {
	var all []option[string]
	text := func(s string) { all = append(all, option[string]{s + "\x00", fmt.Sprintf("%q", s)}) }
	for _, s := range others {
		text(s)
	}
	text("")
	all = append(all,
		option[string]{given, fmt.Sprintf("%q without its trailing NUL", given)},
		option[string]{given + "\x00\x00", fmt.Sprintf("%q with two trailing NULs", given)},
		option[string]{given + "\n", fmt.Sprintf("%q without its trailing NUL", given+"\n")},
		option[string]{"", "empty, without a trailing NUL"})
	text(given + "\n")
	text(given + " ")
	text(" " + given)
	text(strings.TrimSpace(given))
	text(strings.Join(strings.Fields(given), " "))
	text(strings.Trim(given, `"'`))
	text(`"` + given + `"`)
	words := strings.Fields(given)
	for i := range words {
		text(strings.Join(slices.Delete(slices.Clone(words), i, i+1), " "))
	}
	// Words that launchers, boot loaders and people add.
	for _, word := range []string{
		"console=ttyS0", "console=ttyS0,115200", "console=ttyS0,115200n8", "console=hvc0", "console=tty0",
		"earlyprintk=serial", "earlyprintk=ttyS0", "earlycon", "initrd=initrd", "initrd=initrd.img", "ro", "rw", "quiet",
		"splash", "debug", "panic=1", "panic=-1", "panic=10", "loglevel=7", "ignore_loglevel", "nokaslr", "root=/dev/vda",
		"root=/dev/vda1", "root=/dev/sda1", "root=/dev/dm-0", "reboot=t", "acpi=off", "noapic", "net.ifnames=0",
		"swiotlb=262144", "mem_encrypt=on", "random.trust_cpu=on", "systemd.show_status=true",
	} {
		text(strings.TrimSpace(given + " " + word))
		text(strings.TrimSpace(word + " " + given))
	}
	return all
}

func (n *neighbourhood) addVCPU() {
	in := n.question.Inputs
	current := launcher{in.VMM, in.VMSA}
	n.launchers = []option[launcher]{{current, current.String()}}
	n.features = []option[uint64]{{in.Features, launch.DescribeFeatures(in.Features)}}
	n.cpus = []option[launch.CPU]{{in.CPU, describeCPU(in.CPU)}}
	if in.Mode == launch.SEV {
		return
	}
	for _, l := range []launcher{{launch.QEMU, launch.CurrentVMSA}, {launch.QEMU, launch.PreLinux610}, {launch.EC2, launch.CurrentVMSA}, {launch.GCE, launch.CurrentVMSA}} {
		if in.Mode != launch.SNPSVSM || l.vmm == launch.QEMU {
			n.launchers = append(n.launchers, option[launcher]{l, l.String()})
		}
	}
	n.launchers = distinct(n.launchers)
	if in.Mode == launch.SNP {
		n.addFeature(0x1)
		n.addFeature(0x21) // hosts from Linux 6.6 to 6.8
		for bit := 1; bit < 64; bit++ {
			if launch.FeatureBits()>>bit&1 == 1 {
				n.addFeature(in.Features ^ 1<<bit)
			}
		}
		n.features = distinct(n.features)
	}
	for _, c := range append(modelCPUs(), hostCPUs()...) {
		if c.value.Signature != in.CPU.Signature {
			n.cpus = append(n.cpus, c)
		}
	}
}

func (n *neighbourhood) addFeature(f uint64) {
	n.features = append(n.features, option[uint64]{f, launch.DescribeFeatures(f)})
}

func describeCPU(c launch.CPU) string {
	if c == launch.AnyCPU() || c.Name == "" {
		return "none"
	}
	return fmt.Sprintf("%s (%#x)", c.Name, c.Signature)
}

// modelCPUs returns QEMU's models. Models with the same signature are one option.
func modelCPUs() []option[launch.CPU] {
	var all []option[launch.CPU]
	for _, c := range launch.CPUTypes() {
		if i := slices.IndexFunc(all, func(o option[launch.CPU]) bool { return o.value.Signature == c.Signature }); i < 0 {
			all = append(all, option[launch.CPU]{c, fmt.Sprintf("%s or a version of it (%#x)", c.Name, c.Signature)})
		}
	}
	return all
}

// hostCPUs returns the signatures of real processors, which a guest has under "-cpu
// host". linux-firmware's amd-ucode has microcode for each; four of them are in
// genuine reports (docs/spec/launch-digest.md). QEMU has the signatures of Naples,
// Rome and most of Milan, too.
func hostCPUs() []option[launch.CPU] {
	var all []option[launch.CPU]
	for _, h := range []struct {
		sig  uint32
		name string
	}{
		{0xa00f10, "Milan"},
		{0xa00f12, "Milan-X"},
		{0xa10f11, "Genoa"},
		{0xa10f12, "Genoa-X"},
		{0xaa0f01, "Bergamo or Siena"},
		{0xaa0f02, "Bergamo or Siena"},
		{0xb00f21, "Turin"},
		{0xb10f10, "Turin Dense"},
	} {
		c := launch.CPUFromSignature(h.sig)
		all = append(all, option[launch.CPU]{c, fmt.Sprintf("%#x, as \"-cpu host\" has it on %s", h.sig, h.name)})
	}
	return all
}

// distinct drops options whose value occurred before.
func distinct[T comparable](all []option[T]) []option[T] {
	var kept []option[T]
	for _, o := range all {
		if !slices.ContainsFunc(kept, func(k option[T]) bool { return k.value == o.value }) {
			kept = append(kept, o)
		}
	}
	return kept
}
