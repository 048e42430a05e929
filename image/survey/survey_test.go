package survey

import (
	"encoding/binary"
	"io"
	"strings"
	"testing"

	"github.com/rootvouch/rootvouch/image/erofs"
	"github.com/rootvouch/rootvouch/image/rootfs"
)

// text is content of a file.
type text string

func (s text) Open(string, rootfs.Stored) (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader(string(s))), nil
}

func regular(mode uint16, data string) rootfs.File {
	return rootfs.File{Mode: erofs.TypeRegular | mode, Size: int64(len(data)), Content: text(data)}
}

func link(target string) rootfs.File {
	return rootfs.File{Mode: erofs.TypeSymlink | 0o777, Target: target}
}

// program is the beginning of an ELF file, with an interpreter or without.
func program(machine uint16, interpreter string) string {
	b := make([]byte, 64+56)
	copy(b, "\x7fELF\x02\x01\x01")
	le := binary.LittleEndian
	le.PutUint16(b[0x12:], machine)
	le.PutUint64(b[0x20:], 64)
	le.PutUint16(b[0x36:], 56)
	if interpreter != "" {
		le.PutUint16(b[0x38:], 1)
		le.PutUint32(b[64:], 3)
		le.PutUint64(b[64+0x08:], uint64(len(b)))
		le.PutUint64(b[64+0x20:], uint64(len(interpreter)+1))
		b = append(append(b, interpreter...), 0)
	}
	return string(b)
}

const amd64, arm64, s390 = 62, 183, 22

// sound is a root that there is nothing to say of.
func sound() map[string]rootfs.File {
	return map[string]rootfs.File{
		"usr/lib/systemd/systemd":    regular(0o755, program(amd64, "/lib64/ld.so")),
		"usr/lib64/ld.so":            regular(0o755, program(amd64, "")),
		"lib64":                      link("usr/lib64"),
		"usr/sbin/init":              link("../lib/systemd/systemd"),
		"sbin":                       link("usr/sbin"),
		"usr/bin/sh":                 regular(0o755, program(amd64, "")),
		"bin":                        link("usr/bin"),
		"etc/machine-id":             regular(0o444, ""),
		"etc/fstab":                  regular(0o644, "# nothing\ntmpfs /tmp tmpfs nosuid 0 0\n/srv /mnt none bind 0 0\n/swapfile none swap sw 0 0\n"),
		"etc/shadow":                 regular(0o640, "root:*:1:0:99999:7:::\nd:!$6$x:1::::::\n"),
		"etc/ssh/ssh_host_x_key.pub": regular(0o644, "public"),
		"etc/resolv.conf":            regular(0o644, "search x\nnameserver 192.0.2.1\n"),
	}
}

func notesOf(t *testing.T, files map[string]rootfs.File) []Note {
	t.Helper()
	tree := rootfs.New()
	for _, links := range []bool{true, false} { // links first, as others lie below them
		for name, f := range files {
			if links != (f.Mode&erofs.TypeMask == erofs.TypeSymlink) {
				continue
			}
			if err := tree.Add(name, f); err != nil {
				t.Fatal(err)
			}
		}
	}
	notes, err := Notes(tree)
	if err != nil {
		t.Fatal(err)
	}
	return notes
}

func TestSound(t *testing.T) {
	if notes := notesOf(t, sound()); len(notes) > 0 {
		t.Errorf("got %v, want no note", notes)
	}
}

// TestNotes changes one thing of a sound root for each note.
func TestNotes(t *testing.T) {
	for _, c := range []struct {
		name string
		set  map[string]rootfs.File // mode 0 removes the file
		note string                 // its name
		want string                 // a part of its text
	}{
		{"whiteout", map[string]rootfs.File{"w": {Mode: erofs.TypeCharDevice}}, "hidden", `1 files, such as "w"`},
		{"overlay attribute", map[string]rootfs.File{"o": {Mode: erofs.TypeFIFO, Xattrs: map[string]string{"trusted.overlay.opaque": "y"}}}, "hidden", `such as "o"`},

		{"no init", map[string]rootfs.File{"usr/sbin/init": {}}, "init", "the root has no /sbin/init"},
		{"dangling init", map[string]rootfs.File{"usr/lib/systemd/systemd": {}}, "init", "/sbin/init is a dangling link"},
		{"endless init", map[string]rootfs.File{"usr/sbin/init": link("init")}, "init", "more than 40 symbolic links"},
		{"init is a directory", map[string]rootfs.File{"usr/sbin/init": {Mode: erofs.TypeDirectory | 0o755}}, "init", "is no regular file"},
		{"init is not executable", map[string]rootfs.File{"usr/lib/systemd/systemd": regular(0o644, program(amd64, ""))}, "init", "has mode 0644 and is not executable"},
		{"init for arm64", map[string]rootfs.File{"usr/lib/systemd/systemd": regular(0o755, program(arm64, ""))}, "init", "is a program for EM_AARCH64, but a VM has x86-64"},
		{"init for s390", map[string]rootfs.File{"usr/lib/systemd/systemd": regular(0o755, strings.Replace(program(s390<<8, ""), "\x02\x01", "\x02\x02", 1))}, "init", "is a program for EM_S390"},
		{"init is text", map[string]rootfs.File{"usr/sbin/init": regular(0o755, "hello")}, "init", "neither an ELF program nor a script"},
		{"init is empty", map[string]rootfs.File{"usr/sbin/init": regular(0o755, "")}, "init", "neither an ELF program nor a script"},
		{"no dynamic linker", map[string]rootfs.File{"usr/lib64/ld.so": {}}, "init", "needs /lib64/ld.so, which does not exist"},
		{"dynamic linker for arm64", map[string]rootfs.File{"usr/lib64/ld.so": regular(0o755, program(arm64, ""))}, "init", "needs /lib64/ld.so, which is a program for EM_AARCH64"},
		{"script without its shell", map[string]rootfs.File{"usr/sbin/init": regular(0o755, "#! /bin/bash -e\n")}, "init", "needs /bin/bash, which does not exist"},
		{"script of itself", map[string]rootfs.File{"usr/sbin/init": regular(0o755, "#!/sbin/init\n")}, "init", "is a script whose interpreters are scripts"},

		{"mode 0700", map[string]rootfs.File{".": {Mode: erofs.TypeDirectory | 0o700}}, "mode", "/ has mode 0700"},
		{"mode 0777", map[string]rootfs.File{".": {Mode: erofs.TypeDirectory | 0o777}}, "mode", "can replace what is in it"},
		{"empty resolver", map[string]rootfs.File{"etc/resolv.conf": regular(0o644, "")}, "resolver", "names no server"},
		{"resolver of comments", map[string]rootfs.File{"etc/resolv.conf": regular(0o644, "# nameserver x\n")}, "resolver", "names no server"},

		{"no machine-id", map[string]rootfs.File{"etc/machine-id": {}}, "machine-id", "/etc/machine-id is missing"},
		{"machine-id", map[string]rootfs.File{"etc/machine-id": regular(0o444, strings.Repeat("0a", 16)+"\n")}, "machine-id", "is in the image"},
		{"uninitialized", map[string]rootfs.File{"etc/machine-id": regular(0o444, "uninitialized\n")}, "machine-id", "says uninitialized"},
		{"password", map[string]rootfs.File{"etc/shadow": regular(0o640, "root:$6$abc:1::::::\na:!:1::::::\nb::1::::::\n")}, "login", ": root, b"},
		{"cloud image's fstab", map[string]rootfs.File{"etc/fstab": regular(0o644, "LABEL=cloudimg-rootfs / ext4 discard 0 1\n")}, "fstab", "LABEL=cloudimg-rootfs on /:"},
		{"UUID", map[string]rootfs.File{"etc/fstab": regular(0o644, "UUID=1 /boot vfat\n")}, "fstab", "UUID=1 on /boot"},
		{"PARTUUID", map[string]rootfs.File{"etc/fstab": regular(0o644, "PARTUUID=1 /boot vfat\n")}, "fstab", "any disk to which the host gives"},
		{"PARTLABEL", map[string]rootfs.File{"etc/fstab": regular(0o644, "PARTLABEL=x /boot vfat\n")}, "fstab", "any disk to which the host gives"},
		{"device", map[string]rootfs.File{"etc/fstab": regular(0o644, "/dev/vdb /data ext4 nofail\n")}, "fstab", "/dev/vdb on /data"},
		{"swap", map[string]rootfs.File{"etc/fstab": regular(0o644, "LABEL=swp none swap sw,nofail\n")}, "fstab", "memory goes to a disk of the host"},
		{"9p", map[string]rootfs.File{"etc/fstab": regular(0o644, "share /mnt 9p trans=virtio\n")}, "fstab", "a directory of the host"},
		{"virtiofs", map[string]rootfs.File{"etc/fstab": regular(0o644, "share /mnt virtiofs\n")}, "fstab", "a directory of the host"},
		{"NFS", map[string]rootfs.File{"etc/fstab": regular(0o644, "192.0.2.1:/x /mnt nfs4 defaults\n")}, "fstab", "on the host's network"},
		{"crypttab", map[string]rootfs.File{"etc/crypttab": regular(0o600, "swap /dev/vdb /dev/urandom swap\n")}, "crypttab", "swap from /dev/vdb"},
		{"veritytab", map[string]rootfs.File{"etc/veritytab": regular(0o600, "x PARTUUID=1 PARTUUID=2 00\n")}, "crypttab", "/etc/veritytab: x from PARTUUID=1"},
		{"mount unit", map[string]rootfs.File{"etc/systemd/system/data.mount": regular(0o644, "[Mount]\nWhat=/dev/disk/by-label/data\nWhere=/data\nType=ext4\n")}, "units", "/etc/systemd/system/data.mount: /dev/disk/by-label/data"},
		{"swap unit", map[string]rootfs.File{"usr/lib/systemd/system/x.swap": regular(0o644, "[Swap]\nWhat=LABEL=x\n")}, "units", "memory goes to a disk"},
		{"sshd over vsock", map[string]rootfs.File{"usr/sbin/sshd": regular(0o755, ""), "usr/lib/systemd/system-generators/systemd-ssh-generator": regular(0o755, "")}, "orders", "sshd listens there"},
		{"credentials", map[string]rootfs.File{"usr/lib/x86_64-linux-gnu/systemd/libsystemd-shared-257.9-1.so": regular(0o644, "")}, "credentials", "systemd.import_credentials=no"},
	} {
		t.Run(c.name, func(t *testing.T) {
			files := sound()
			for name, f := range c.set {
				if files[name] = f; f.Mode == 0 {
					delete(files, name)
				}
			}
			notes := notesOf(t, files)
			if len(notes) != 1 || notes[0].Name != c.note || !strings.Contains(notes[0].Text, c.want) {
				t.Errorf("got %q, want one %s with %q", notes, c.note, c.want)
			}
		})
	}
}

// TestShared has a file for each entry of the table.
func TestShared(t *testing.T) {
	for _, name := range []string{"etc/ssh/ssh_host_ed25519_key", "etc/ssh/ssh_host_rsa_key", "var/lib/systemd/random-seed", "var/lib/urandom/random-seed",
		"var/lib/misc/random-seed", "var/lib/seedrng/seed.credit", "var/lib/seedrng/seed.no-credit", "var/lib/systemd/credential.secret",
		"var/lib/dbus/machine-id", "var/lib/NetworkManager/secret_key", "etc/ssl/private/ssl-cert-snakeoil.key", "etc/bind/rndc.key", "etc/rndc.key",
		"etc/iscsi/initiatorname.iscsi", "etc/nvme/hostid", "etc/hostid", "var/lib/cloud/instance", "var/lib/dhcp/dhclient.leases",
		"var/lib/tpm2-tss/system/keystore/key"} {
		files := sound()
		files[name] = regular(0o600, "x")
		if notes := notesOf(t, files); len(notes) != 1 || notes[0].Name != "shared" || !strings.HasPrefix(notes[0].Text, "/"+name+": ") {
			t.Errorf("%s: got %q", name, notes)
		}
	}
	files := sound()
	files["var/lib/dbus/machine-id"] = link("/etc/machine-id")
	files["var/lib/systemd/random-seed"] = regular(0o600, "")
	if notes := notesOf(t, files); len(notes) > 0 {
		t.Errorf("a link and an empty file: got %q", notes)
	}
}

// TestOneOwner: a tree that a user unpacked.
func TestOneOwner(t *testing.T) {
	tree := rootfs.New()
	if err := tree.Add("usr", rootfs.File{Mode: erofs.TypeDirectory | 0o755, UID: 1000}); err != nil {
		t.Fatal(err)
	}
	if err := tree.Add("usr/f", rootfs.File{Mode: erofs.TypeRegular, UID: 1000}); err != nil {
		t.Fatal(err)
	}
	got, err := oneOwner(&root{tree})
	if err != nil || len(got) != 1 || !strings.Contains(got[0], "all files belong to user 1000") {
		t.Errorf("got %q, error %v", got, err)
	}
	if err := tree.Add("usr/g", rootfs.File{Mode: erofs.TypeRegular}); err != nil {
		t.Fatal(err)
	}
	if got, err := oneOwner(&root{tree}); err != nil || len(got) != 0 {
		t.Errorf("two owners: got %q, error %v", got, err)
	}
}

// TestOneDirectory: a tar of a directory that has the root in it.
func TestOneDirectory(t *testing.T) {
	notes := notesOf(t, map[string]rootfs.File{"rootfs/etc/passwd": regular(0o644, ""), "rootfs/sbin/init": regular(0o755, "")})
	if len(notes) != 1 || !strings.Contains(notes[0].Text, `everything is in "rootfs"`) {
		t.Errorf("got %q", notes)
	}
}

// TestOrders has a program for each agent, by every name in the table.
func TestOrders(t *testing.T) {
	want := map[string]string{ // :: file -> agent
		"usr/bin/cloud-init":                                     "cloud-init",
		"usr/bin/ignition":                                       "ignition",
		"usr/lib/dracut/modules.d/30ignition/ignition":           "ignition",
		"usr/bin/afterburn":                                      "afterburn",
		"usr/bin/coreos-metadata":                                "afterburn",
		"usr/lib/dracut/modules.d/30afterburn/module-setup":      "afterburn",
		"usr/bin/coreos-cloudinit":                               "coreos-cloudinit",
		"usr/bin/azure-init":                                     "azure-init",
		"usr/sbin/qemu-ga":                                       "qemu-guest-agent",
		"sbin/qemu-ga":                                           "qemu-guest-agent",
		"usr/bin/spice-vdagent":                                  "spice-vdagent",
		"usr/sbin/spice-vdagentd":                                "spice-vdagent",
		"usr/sbin/ovirt-guest-agent":                             "ovirt-guest-agent",
		"usr/share/ovirt-guest-agent/ovirt-guest-agent.py":       "ovirt-guest-agent",
		"usr/bin/google_guest_agent":                             "google-guest-agent",
		"usr/bin/google_guest_agent_manager":                     "google-guest-agent",
		"usr/bin/google_guest_compat_manager":                    "google-guest-agent",
		"usr/bin/google_metadata_script_runner":                  "google start-up scripts",
		"usr/bin/google_authorized_keys":                         "google-guest-oslogin",
		"usr/bin/google_oslogin_nss_cache":                       "google-guest-oslogin",
		"usr/bin/google_osconfig_agent":                          "google-osconfig-agent",
		"usr/sbin/waagent":                                       "waagent",
		"usr/bin/amazon-ssm-agent":                               "amazon-ssm-agent",
		"snap/amazon-ssm-agent/1/agent":                          "amazon-ssm-agent",
		"var/lib/snapd/seed/snaps/amazon-ssm-agent.snap":         "amazon-ssm-agent",
		"usr/bin/eic_run_authorized_keys":                        "ec2-instance-connect",
		"usr/share/ec2-instance-connect/eic_run_authorized_keys": "ec2-instance-connect",
		"opt/aws/bin/eic_run_authorized_keys":                    "ec2-instance-connect",
		"usr/bin/cfn-init":                                       "cfn-bootstrap",
		"usr/bin/cfn-hup":                                        "cfn-bootstrap",
		"opt/aws/bin/cfn-init":                                   "cfn-bootstrap",
		"opt/aws/bin/cfn-hup":                                    "cfn-bootstrap",
		"usr/bin/hibinit-agent":                                  "ec2-hibinit-agent",
		"usr/bin/vmtoolsd":                                       "open-vm-tools",
		"usr/sbin/hv_kvp_daemon":                                 "hyperv-daemons",
		"usr/sbin/hv_vss_daemon":                                 "hyperv-daemons",
		"usr/sbin/hv_fcopy_daemon":                               "hyperv-daemons",
		"usr/sbin/hv_fcopy_uio_daemon":                           "hyperv-daemons",
		"usr/sbin/xe-daemon":                                     "xe-guest-utilities",
		"usr/sbin/xe-linux-distribution":                         "xe-guest-utilities",
		"usr/sbin/VBoxService":                                   "VirtualBox guest additions",
		"usr/bin/VBoxClient":                                     "VirtualBox guest additions",
		"usr/bin/prltoolsd":                                      "parallels-tools",
		"usr/bin/prl_nettool":                                    "parallels-tools",
		"usr/bin/lxd-agent":                                      "lxd-agent",
		"usr/bin/lxd-agent-setup":                                "lxd-agent",
		"usr/lib/systemd/lxd-agent-setup":                        "lxd-agent",
		"lib/systemd/lxd-agent-setup":                            "lxd-agent",
		"usr/bin/incus-agent":                                    "incus-agent",
		"usr/bin/incus-agent-setup":                              "incus-agent",
		"usr/lib/systemd/incus-agent-setup":                      "incus-agent",
		"lib/systemd/incus-agent-setup":                          "incus-agent",
		"usr/local/bin/lima-guestagent":                          "lima-guestagent",
		"usr/bin/lima-init":                                      "lima-guestagent",
		"usr/bin/kata-agent":                                     "kata-agent",
		"usr/bin/oracle-cloud-agent":                             "oracle-cloud-agent",
		"usr/libexec/oracle-cloud-agent/agent":                   "oracle-cloud-agent",
		"snap/oracle-cloud-agent/1/agent":                        "oracle-cloud-agent",
		"usr/sbin/aliyun-service":                                "aliyun-assist",
		"usr/local/share/aliyun-assist/2.2/aliyun-service":       "aliyun-assist",
		"usr/bin/droplet-agent":                                  "droplet-agent",
		"opt/digitalocean/bin/droplet-agent":                     "droplet-agent",
		"usr/sbin/nova-agent":                                    "nova-agent",
		"usr/sbin/one-contextd":                                  "one-context",
		"usr/bin/onegate":                                        "one-context",
		"etc/one-context.d/loc-10-network":                       "one-context",
		"usr/bin/cloud-set-guest-password":                       "cloudstack scripts",
		"usr/bin/cloud-set-guest-sshkey":                         "cloudstack scripts",
		"usr/sbin/mdata-get":                                     "SmartOS metadata",
		"usr/bin/cloudbase-init":                                 "cloudbase-init",
	}
	found := map[string]bool{}
	for file, agent := range want {
		files := sound()
		files[file] = regular(0o755, "")
		notes := notesOf(t, files)
		if len(notes) != 1 || notes[0].Name != "orders" || !strings.Contains(notes[0].Text, "from the host: "+agent+" (from ") {
			t.Errorf("%s: got %q, want %s", file, notes, agent)
		}
		found[agent] = true
	}
	for _, d := range agents {
		if !found[d.name] {
			t.Errorf("no file here opens the agent %s", d.name)
		}
	}
}
