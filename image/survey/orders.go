package survey

import (
	"fmt"
	"path"
	"strconv"
	"strings"
)

// agent is a program that takes commands, code or configuration from the machine
// that a VM runs on, with the places where distributions put it. dm-verity does not
// stop an agent: the program is measured, but its input is not.
type agent struct {
	name     string
	takes    string   // where its input comes from
	programs []string // names in programDirs
	paths    []string // other paths
}

var agents = []agent{
	{"cloud-init", "metadata, a disk or SMBIOS", []string{"cloud-init"}, nil},
	{"ignition", "fw_cfg or metadata", []string{"ignition"}, []string{"usr/lib/dracut/modules.d/30ignition/ignition"}},
	{"afterburn", "metadata", []string{"afterburn", "coreos-metadata"}, []string{"usr/lib/dracut/modules.d/30afterburn"}},
	{"coreos-cloudinit", "metadata", []string{"coreos-cloudinit"}, nil},
	{"azure-init", "metadata", []string{"azure-init"}, nil},
	{"qemu-guest-agent", "a virtio port", []string{"qemu-ga"}, nil},
	{"spice-vdagent", "a virtio port", []string{"spice-vdagent", "spice-vdagentd"}, nil},
	{"ovirt-guest-agent", "a virtio port", []string{"ovirt-guest-agent"}, []string{"usr/share/ovirt-guest-agent"}},
	{"google-guest-agent", "metadata", []string{"google_guest_agent", "google_guest_agent_manager", "google_guest_compat_manager"}, nil},
	{"google start-up scripts", "metadata", []string{"google_metadata_script_runner"}, nil},
	{"google-guest-oslogin", "metadata", []string{"google_authorized_keys", "google_oslogin_nss_cache"}, nil},
	{"google-osconfig-agent", "metadata", []string{"google_osconfig_agent"}, nil},
	{"waagent", "Azure's fabric", []string{"waagent"}, nil},
	{"amazon-ssm-agent", "AWS", []string{"amazon-ssm-agent"}, []string{"snap/amazon-ssm-agent", "var/lib/snapd/seed/snaps/amazon-ssm-agent.snap"}},
	{"ec2-instance-connect", "metadata", []string{"eic_run_authorized_keys"},
		[]string{"usr/share/ec2-instance-connect/eic_run_authorized_keys", "opt/aws/bin/eic_run_authorized_keys"}},
	{"cfn-bootstrap", "metadata", []string{"cfn-init", "cfn-hup"}, []string{"opt/aws/bin/cfn-init", "opt/aws/bin/cfn-hup"}},
	{"ec2-hibinit-agent", "metadata", []string{"hibinit-agent"}, nil},
	{"open-vm-tools", "VMware's backdoor", []string{"vmtoolsd"}, nil},
	{"hyperv-daemons", "VMBus", []string{"hv_kvp_daemon", "hv_vss_daemon", "hv_fcopy_daemon", "hv_fcopy_uio_daemon"}, nil},
	{"xe-guest-utilities", "XenStore", []string{"xe-daemon", "xe-linux-distribution"}, nil},
	{"VirtualBox guest additions", "VirtualBox", []string{"VBoxService", "VBoxClient"}, nil},
	{"parallels-tools", "Parallels", []string{"prltoolsd", "prl_nettool"}, nil},
	{"lxd-agent", "a directory of the host", []string{"lxd-agent", "lxd-agent-setup"}, []string{"usr/lib/systemd/lxd-agent-setup", "lib/systemd/lxd-agent-setup"}},
	{"incus-agent", "a directory of the host", []string{"incus-agent", "incus-agent-setup"}, []string{"usr/lib/systemd/incus-agent-setup", "lib/systemd/incus-agent-setup"}},
	{"lima-guestagent", "a disk and a socket", []string{"lima-guestagent", "lima-init"}, nil},
	{"kata-agent", "vsock", []string{"kata-agent"}, nil},
	{"oracle-cloud-agent", "metadata", []string{"oracle-cloud-agent"}, []string{"usr/libexec/oracle-cloud-agent", "snap/oracle-cloud-agent"}},
	{"aliyun-assist", "Alibaba's fabric", []string{"aliyun-service"}, []string{"usr/local/share/aliyun-assist"}},
	{"droplet-agent", "metadata", []string{"droplet-agent"}, []string{"opt/digitalocean/bin/droplet-agent"}},
	{"nova-agent", "XenStore", []string{"nova-agent"}, nil},
	{"one-context", "a disk", []string{"one-contextd", "onegate"}, []string{"etc/one-context.d"}},
	{"cloudstack scripts", "metadata", []string{"cloud-set-guest-password", "cloud-set-guest-sshkey"}, nil},
	{"SmartOS metadata", "a serial port", []string{"mdata-get"}, nil},
	{"cloudbase-init", "metadata", []string{"cloudbase-init"}, nil},
}

// programDirs are the directories of programs.
var programDirs = []string{"usr/bin", "usr/sbin", "usr/local/bin", "usr/local/sbin", "usr/libexec", "bin", "sbin"}

// in reports whether a root has the agent.
func (d agent) in(r *root) bool {
	for _, program := range d.programs {
		for _, dir := range programDirs {
			if r.has(path.Join(dir, program)) {
				return true
			}
		}
	}
	return r.hasAny(d.paths...)
}

// orders names the programs in the root that take orders from the host. It knows the usual
// programs, by their paths.
func orders(r *root) ([]string, error) {
	var found []string
	for _, d := range agents {
		if d.in(r) {
			found = append(found, fmt.Sprintf("%s (from %s)", d.name, d.takes))
		}
	}
	var notes []string
	if len(found) > 0 {
		notes = append(notes, fmt.Sprintf("programs in the root take orders from the host: %s (--exclude leaves files out)", strings.Join(found, ", ")))
	}
	sshd := r.hasAny("usr/sbin/sshd", "sbin/sshd")
	generator := r.hasAny("usr/lib/systemd/system-generators/systemd-ssh-generator", "lib/systemd/system-generators/systemd-ssh-generator")
	if sshd && generator {
		notes = append(notes, "sshd and systemd-ssh-generator: if the host gives the VM a vsock device, sshd listens there and accepts keys from the host's credentials")
	}
	return notes, nil
}

// credentialsSince is the first version of systemd that reads credentials from SMBIOS and
// fw_cfg, unless the command line has systemd.import_credentials=no.
const credentialsSince = 250

func credentials(r *root) ([]string, error) {
	if r.systemdVersion() < credentialsSince {
		return nil, nil
	}
	return one("systemd accepts credentials from the host: keep systemd.import_credentials=no on the measured command line, as in vm run")
}

// systemdVersion returns the version of the tree's systemd, from the name of its private
// library, or 0.
func (r *root) systemdVersion() int {
	version := 0
	look := func(dir string) {
		for _, name := range r.matching(dir, "libsystemd-shared-*") {
			rest := strings.TrimPrefix(path.Base(name), "libsystemd-shared-")
			// libsystemd-shared-257.so, -257.9-1.so, -257.fc42.so
			digits := rest[:len(rest)-len(strings.TrimLeft(rest, "0123456789"))]
			if v, err := strconv.Atoi(digits); err == nil {
				version = max(version, v)
			}
		}
	}
	for _, lib := range []string{"usr/lib", "usr/lib64", "lib"} {
		look(path.Join(lib, "systemd"))
		for _, multiarch := range r.matching(lib, "*-linux-*") {
			look(path.Join(multiarch, "systemd"))
		}
	}
	return version
}
