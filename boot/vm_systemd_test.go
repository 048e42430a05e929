package boot_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rootvouch/rootvouch/boot/bootconfig"
	"github.com/rootvouch/rootvouch/image"
	"github.com/rootvouch/rootvouch/image/intake"
	"github.com/rootvouch/rootvouch/image/rootfs"
	"github.com/rootvouch/rootvouch/internal/needs"
	"github.com/rootvouch/rootvouch/pins"
)

// labelled are files of a root with systemd that name disks by label. The
// attacker's disks have these labels. The unit "report" prints the effect and
// powers off.
var labelled = map[string]string{
	"etc/fstab":    "LABEL=data /usr/local ext4 defaults,x-systemd.device-timeout=0 0 0\nLABEL=swp none swap sw,x-systemd.device-timeout=0 0 0\n",
	"etc/crypttab": "data LABEL=crypt /etc/machine-id luks\n",
	"etc/systemd/system/report.service": `[Unit]
After=local-fs.target swap.target systemd-udev-settle.service
Wants=swap.target
[Service]
Type=oneshot
StandardOutput=tty
TTYPath=/dev/console
ExecStart=-/usr/local/program
ExecStart=/bin/sh -c 'echo "report: swap areas: $(sed 1d /proc/swaps | wc -l)"; echo "report: mounts of the host: $(grep -c /usr/local /proc/mounts)"'
ExecStart=/bin/sh -c 'echo "report: end"'
ExecStartPost=/bin/systemctl --no-block poweroff
`,
}

// TestVMLabels boots systemd with tables that name disks by label, and a host that
// has such disks. In the control, the booted system may load any driver and the
// command line lacks the protective words. There the host's program runs as root.
func TestVMLabels(t *testing.T) {
	needs.Boot(t)
	b := newBench(t)
	systemd := b.newSystemd(t)
	hostDisks := labelledDisks(t)
	boot := func(t *testing.T, change func(v *vm)) string {
		v := b.vm(t)
		v.use(systemd)
		v.devices = hostDisks
		change(v)
		out := v.boot()
		if !strings.Contains(out, "report: end") {
			t.Fatalf("systemd did not get to its report:\n%s", out)
		}
		return out
	}
	without := func(v *vm) {
		for _, word := range []string{" fstab=no", " systemd.swap=no", " systemd.gpt_auto=no"} {
			v.config.CommandLine = strings.Replace(v.config.CommandLine, word, "", 1)
		}
	}
	clean := func(t *testing.T, out string) {
		for _, want := range []string{"report: swap areas: 0", "report: mounts of the host: 0"} {
			if !strings.Contains(out, want) {
				t.Errorf("there is no %q:\n%s", want, out)
			}
		}
		if strings.Contains(out, "the host's program runs") {
			t.Errorf("the host's program ran:\n%s", out)
		}
		if strings.Contains(out, "login:") {
			t.Errorf("the console, which is the host's, offers a login:\n%s", out)
		}
		t.Log("observed: no mount and no swap of the host's, its program does not run")
	}
	t.Run("as measured", func(t *testing.T) {
		t.Parallel()
		clean(t, boot(t, func(*vm) {}))
	})
	t.Run("without the words of the command line", func(t *testing.T) {
		needs.Matrix(t)
		t.Parallel()
		clean(t, boot(t, without))
	})
	t.Run("control: devices of any kind", func(t *testing.T) {
		needs.Matrix(t)
		t.Parallel()
		out := boot(t, func(v *vm) {
			without(v)
			v.config.Devices = bootconfig.DevicesAny
		})
		for _, want := range []string{"the host's program runs as uid=0(root)", "report: swap areas: 1", "report: mounts of the host: 1"} {
			if !strings.Contains(out, want) {
				t.Errorf("there is no %q, so the attack shows nothing:\n%s", want, out)
			}
		}
		t.Log("observed: the host's program runs as root, and memory goes to the host's disk")
	})
}

// newSystemd builds a disk of the stock root tree, with the tables.
func (b *bench) newSystemd(t *testing.T) testDisk {
	t.Helper()
	stock, err := os.Open(needs.Part(t, "root/debian-*.tar"))
	if err != nil {
		t.Fatal(err)
	}
	defer stock.Close()
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for r := tar.NewReader(stock); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, replaced := labelled[strings.TrimPrefix(h.Name, "./")]; replaced {
			continue
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(w, r); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range labelled {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "./" + name, Mode: 0o644, Size: int64(len(text))}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, text); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "./etc/systemd/system/multi-user.target.wants/report.service", Linkname: "../report.service", Mode: 0o777}); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	secrets, err := image.NewSecrets(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return b.buildDisk(t, "systemd", secrets, archive.Bytes())
}

// labelledDisks returns QEMU's arguments for disks of the host's that have the
// labels: a filesystem with a program, and a swap area.
func labelledDisks(t *testing.T) (args []string) {
	t.Helper()
	dir := t.TempDir()
	tree := filepath.Join(dir, "tree")
	const program = "#!/bin/sh\necho \"the host's program runs as $(id)\"\n"
	if err := os.Mkdir(tree, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(tree, "program"), []byte(program), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, command := range map[string][]string{
		"data": {needs.Tool(t, "mkfs.ext4"), "-q", "-L", "data", "-d", tree},
		"swp":  {needs.Tool(t, "mkswap"), "-L", "swp"},
	} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, 64<<20); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(command[0], append(command[1:], path)...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		args = append(args, "-drive", "file="+path+",format=raw,if=none,id="+name+",snapshot=on", "-device", "virtio-blk-pci,drive="+name+",serial="+name)
	}
	return args
}

// buildDisk builds a disk whose root filesystem comes from a tar.
func (b *bench) buildDisk(t *testing.T, name string, secrets *image.Secrets, archive []byte) testDisk {
	t.Helper()
	tree := rootfs.New()
	if err := (&intake.Reader{Tree: tree}).ReadTar(context.Background(), bytes.NewReader(archive), int64(len(archive))); err != nil {
		t.Fatal(err)
	}
	source, err := image.Tree(tree, pins.InitOK)
	if err != nil {
		t.Fatal(err)
	}
	d := testDisk{path: filepath.Join(b.dir, name+".img"), secrets: secrets}
	file, err := os.Create(d.path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if d.pins, err = image.Build(context.Background(), file, source, secrets, image.Options{}); err != nil {
		t.Fatal(err)
	}
	return d
}
