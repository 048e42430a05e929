package survey

import (
	"fmt"
	"strings"

	"github.com/rootvouch/rootvouch/image/erofs"
)

// machineID checks the file that systemd and D-Bus use as the machine's identity
// (machine-id(5)).
func machineID(r *root) ([]string, error) {
	const name = "etc/machine-id"
	if n, err := r.Lookup(name); err == nil && n.Type() == erofs.TypeSymlink {
		return nil, nil // a link to a file of /run or /var, made at boot
	}
	text, ok, err := r.text(name)
	text = strings.TrimSpace(text)
	switch {
	case err != nil:
		return nil, err
	case !ok && r.isSystemd():
		return one("/etc/machine-id is missing: systemd takes each boot for the first, and may ask on the console; an empty file gives each boot an ID of its own")
	case text == "uninitialized":
		return one("/etc/machine-id says uninitialized: systemd takes each boot for the first; an empty file gives each boot an ID of its own")
	case text != "":
		return one("/etc/machine-id is in the image: all VMs of it are one machine to journals, DHCP servers and clusters; an empty file gives each boot an ID of its own")
	}
	return nil, nil
}

// sharedFiles are secrets and identities that each machine should make for itself. If the image
// has one, all its VMs share it, and everybody with the image knows it.
var sharedFiles = []struct {
	dir, pattern, what string
}{
	{"etc/ssh", "ssh_host_*_key", "SSH host keys"},
	{"var/lib/systemd", "random-seed", "a random seed"},
	{"var/lib/urandom", "random-seed", "a random seed"},
	{"var/lib/misc", "random-seed", "a random seed"},
	{"var/lib/seedrng", "seed.*credit", "a random seed"},
	{"var/lib/systemd", "credential.secret", "the key of systemd's credentials"},
	{"var/lib/dbus", "machine-id", "a machine-id"},
	{"var/lib/NetworkManager", "secret_key", "NetworkManager's key"},
	{"etc/ssl/private", "ssl-cert-snakeoil.key", "a TLS key"},
	{"etc/bind", "rndc.key", "BIND's control key"},
	{"etc", "rndc.key", "BIND's control key"},
	{"etc/iscsi", "initiatorname.iscsi", "an iSCSI initiator's name"},
	{"etc/nvme", "hostid", "an NVMe host ID"},
	{"etc", "hostid", "a host ID"},
	{"var/lib/cloud", "instance", "cloud-init's state of another machine"},
	{"var/lib/dhcp", "*.leases", "DHCP leases of another machine"},
	{"var/lib/tpm2-tss/system/keystore", "*", "keys of another machine's TPM"},
}

// shared looks for sharedFiles.
func shared(r *root) ([]string, error) {
	var notes []string
	for _, f := range sharedFiles {
		for _, name := range r.matching(f.dir, f.pattern) {
			n, err := r.Lookup(name)
			if err == nil && (n.Type() != erofs.TypeRegular || n.Stat().Size > 0) && !strings.HasSuffix(name, ".pub") &&
				(n.Type() != erofs.TypeSymlink || f.what != "a machine-id") {
				notes = append(notes, fmt.Sprintf("%s: %s, the same in all VMs of the image", "/"+name, f.what))
			}
		}
	}
	return notes, nil
}

// logins names the accounts that can log in on the console, which is the host's.
func logins(r *root) ([]string, error) {
	text, ok, err := r.text("etc/shadow")
	if err != nil || !ok {
		return nil, err
	}
	var names []string
	for line := range strings.Lines(text) {
		fields := strings.Split(strings.TrimSpace(line), ":")
		if len(fields) > 2 && !strings.HasPrefix(fields[1], "!") && !strings.HasPrefix(fields[1], "*") {
			names = append(names, fields[0])
		}
	}
	if len(names) == 0 {
		return nil, nil
	}
	return one(fmt.Sprintf("the console is the host's, and these accounts can log in there with a password (or an empty one): %s", strings.Join(names, ", ")))
}
