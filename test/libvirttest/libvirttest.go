// Package libvirttest checks domains with libvirt: its schema, and its translation
// to QEMU's arguments.
//
// libvirt translates a domain for SEV-SNP only if it has found KVM and SEV. Here it
// runs in a root of its own (scripts/setup launchers), in namespaces without a
// network. Its data about QEMU are edited to those of a host with KVM and SEV. No
// VM starts.
package libvirttest

import (
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/rootvouch/rootvouch/internal/needs"
	"github.com/rootvouch/rootvouch/test/childtest"
)

// inside prepares the namespaces and runs libvirt.
//
//go:embed inside.sh
var inside string

// Native validates domains and returns QEMU's arguments for each, without the program.
// Bridges named br0 and the network "default" exist.
func Native(t *testing.T, domains ...string) [][]string {
	t.Helper()
	needs.Boot(t)
	root := filepath.Dir(filepath.Dir(filepath.Dir(needs.Part(t, "launchers/root/usr/sbin/libvirtd"))))
	needs.Root(t)
	work := t.TempDir()
	for i, domain := range domains {
		if err := os.WriteFile(filepath.Join(work, fmt.Sprintf("%d.xml", i)), []byte(domain), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run(t, "probe", root, work)
	probed, err := os.ReadFile(filepath.Join(work, "probed.xml"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(work, "forged.xml"), []byte(forge(t, string(probed))), 0o600); err != nil {
		t.Fatal(err)
	}
	run(t, "translate", root, work)
	var all [][]string
	for i := range domains {
		line, err := os.ReadFile(filepath.Join(work, fmt.Sprintf("%d.argv", i)))
		if err != nil {
			t.Fatal(err)
		}
		argv := words(t, string(line))
		for len(argv) > 0 && !strings.HasSuffix(argv[0], "/qemu-system-x86_64") {
			argv = argv[1:]
		}
		if len(argv) < 2 {
			t.Fatalf("libvirt printed %s", line)
		}
		all = append(all, argv[1:])
	}
	return all
}

func run(t *testing.T, what, root, work string) {
	t.Helper()
	cmd := childtest.Tied(exec.CommandContext(t.Context(), "unshare", "--mount", "--pid", "--fork", "--net", "--kill-child", "bash", "-euc", inside, "inside", what, root, work))
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("libvirt, %s: %v\n%s", what, err, out)
	}
}

// forge adds to libvirt's data about QEMU the data that it would find with KVM and
// SEV-SNP: for each CPU model and machine of TCG the same one of KVM. The processor
// and the kernel stay this machine's, because libvirt compares them.
func forge(t *testing.T, probed string) string {
	t.Helper()
	var added strings.Builder
	for _, tag := range []string{"hostCPU", "cpu", "machine"} {
		one := regexp.MustCompile(`(?s)  <` + tag + ` type='tcg'[^>]*?(?:/>|>.*?</` + tag + `>)\n`)
		found := one.FindAllString(probed, -1)
		if len(found) == 0 {
			t.Fatalf("libvirt knows no %s of TCG", tag)
		}
		for _, section := range found {
			added.WriteString(strings.Replace(section, "type='tcg'", "type='kvm'", 1))
		}
	}
	cpu := processor(t)
	fmt.Fprintf(&added, "  <hostCPUSignature>%s, %s, family: %s, model: %s, stepping: %s</hostCPUSignature>\n",
		cpu["vendor_id"], cpu["model name"], cpu["cpu family"], cpu["model"], cpu["stepping"])
	var kernel unix.Utsname
	if err := unix.Uname(&kernel); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(&added, "  <kernelVersion>%s %s</kernelVersion>\n", unix.ByteSliceToString(kernel.Release[:]), unix.ByteSliceToString(kernel.Version[:]))
	added.WriteString("  <sev><cbitpos>51</cbitpos><reducedPhysBits>1</reducedPhysBits><pdh>AAAA</pdh><certChain>AAAA</certChain><cpu0Id>AAAA</cpu0Id>" +
		"<maxGuests>10</maxGuests><maxESGuests>10</maxESGuests></sev>\n")
	var microcode uint64
	fmt.Sscanf(cpu["microcode"], "0x%x", &microcode)
	forged := strings.Replace(probed, "<microcodeVersion>0<", fmt.Sprintf("<microcodeVersion>%d<", microcode), 1)
	forged = strings.Replace(forged, "  <flag ", "  <flag name='kvm'/>\n  <flag name='sev-guest'/>\n  <flag name='sev-snp-guest'/>\n  <flag ", 1)
	return strings.Replace(forged, "</qemuCaps>", added.String()+"</qemuCaps>", 1)
}

// processor is the first processor of /proc/cpuinfo :: name -> value.
func processor(t *testing.T) map[string]string {
	t.Helper()
	data, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(data), "\n\n")
	fields := map[string]string{}
	for line := range strings.Lines(first) {
		name, value, _ := strings.Cut(line, ":")
		fields[strings.TrimSpace(name)] = strings.TrimSpace(value)
	}
	return fields
}

// words splits a line as a POSIX shell does. It knows only libvirt's forms of
// quoting: single quotes, and a backslash outside of them.
func words(t *testing.T, line string) []string {
	t.Helper()
	var all []string
	var word strings.Builder
	quoted, escaped, open := false, false, false
	for _, r := range line {
		switch {
		case escaped:
			word.WriteRune(r)
			escaped = false
		case quoted && r != '\'':
			word.WriteRune(r)
		case r == '\'':
			quoted, open = !quoted, true
		case r == '\\':
			escaped, open = true, true
		case r == ' ' || r == '\n':
			if open {
				all = append(all, word.String())
			}
			word.Reset()
			open = false
		default:
			word.WriteRune(r)
			open = true
		}
	}
	if open && !quoted && !escaped {
		all = append(all, word.String())
		return all
	}
	if quoted || escaped {
		t.Fatalf("libvirt's line ends inside a word: %s", line)
	}
	return all
}
