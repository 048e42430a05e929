package export

import (
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/rootvouch/rootvouch/platform"
)

// hook is a program that KubeVirt's sidecar runs on the domain before the domain
// starts. KubeVirt's API has no setting for kernel hashes, and without them the
// digest covers no kernel.
//
//go:embed kubevirt-hook.sh
var hook string

// kubevirt writes a virtual machine for KubeVirt 1.7, and the ConfigMap of its hook.
func kubevirt(vm VM) (string, error) {
	switch {
	case vm.BootImage == "":
		return "", errors.New("it takes kernel and initramfs from a container image, which --boot-image names")
	case vm.Disk == "" || len(vm.ExtraDisks) > 0:
		return "", errors.New("it takes exactly one disk")
	case len(vm.Volumes) > 0:
		return "", errors.New("volumes are the cluster's: make a block claim of each image, and add it to the text")
	case vm.Initramfs == "":
		return "", errors.New("it takes kernel and initramfs in two files")
	case vm.Network.Kind != platform.User || len(vm.Forwards) > 0:
		return "", errors.New("the VM is on the pod's network: name none, and forward no ports")
	}
	if err := vm.plain(); err != nil {
		return "", err
	}
	var b strings.Builder
	b.WriteString(comment(
		"launch digest "+vm.Digest.String(),
		"For KubeVirt 1.7 with the feature gates WorkloadEncryptionSEV and Sidecar. "+tested,
		"The container image has the kernel as /boot/vmlinuz and the initramfs as",
		"/boot/initramfs.img; the claim "+vm.Name+" has the disk image.",
		"The firmware is virt-launcher's. The digest above is of "+vm.Firmware+":",
		"another firmware has another digest."))
	sidecars, err := json.Marshal([]any{map[string]any{
		"args":      []string{"--version", "v1alpha3"},
		"configMap": map[string]string{"name": vm.Name + "-kernel-hashes", "key": "onDefineDomain.sh", "hookPath": "/usr/bin/onDefineDomain"},
	}})
	if err != nil {
		return "", err
	}
	y := func(indent int, key, value string) {
		fmt.Fprintf(&b, "%s%s:%s\n", strings.Repeat("  ", indent), key, value)
	}
	y(0, "apiVersion", " v1")
	y(0, "kind", " ConfigMap")
	y(0, "metadata", "")
	y(1, "name", " "+quoteYAML(vm.Name+"-kernel-hashes"))
	y(0, "data", "")
	y(1, "onDefineDomain.sh", " |")
	for line := range strings.Lines(hook) {
		b.WriteString(strings.TrimRight("    "+line, " \n") + "\n")
	}
	b.WriteString("---\n")
	y(0, "apiVersion", " kubevirt.io/v1")
	y(0, "kind", " VirtualMachine")
	y(0, "metadata", "")
	y(1, "name", " "+quoteYAML(vm.Name))
	y(0, "spec", "")
	y(1, "runStrategy", " Manual")
	y(1, "template", "")
	y(2, "metadata", "")
	y(3, "annotations", "")
	y(4, "hooks.kubevirt.io/hookSidecars", " "+quoteYAML(string(sidecars)))
	y(2, "spec", "")
	y(3, "domain", "")
	y(4, "cpu", "")
	y(5, "model", " "+quoteYAML(vm.CPUType))
	y(5, "sockets", " 1")
	y(5, "cores", fmt.Sprintf(" %d", vm.VCPUs))
	y(5, "threads", " 1")
	y(4, "memory", "")
	y(5, "guest", fmt.Sprintf(" %dMi", vm.MemoryMiB))
	y(4, "launchSecurity", "")
	y(5, "snp", " {}")
	y(4, "firmware", "")
	y(5, "bootloader", "")
	y(6, "efi", "")
	y(7, "secureBoot", " false")
	y(5, "kernelBoot", "")
	y(6, "kernelArgs", " "+quoteYAML(vm.CommandLine))
	y(6, "container", "")
	y(7, "image", " "+quoteYAML(vm.BootImage))
	y(7, "kernelPath", " /boot/vmlinuz")
	y(7, "initrdPath", " /boot/initramfs.img")
	y(4, "devices", "")
	y(5, "autoattachGraphicsDevice", " false")
	y(5, "autoattachMemBalloon", " false")
	y(5, "autoattachSerialConsole", " true")
	b.WriteString("          disks:\n            - name: root\n              disk:\n                bus: virtio\n                readonly: true\n")
	b.WriteString("          interfaces:\n            - name: default\n              model: virtio\n              masquerade: {}\n")
	b.WriteString("      networks:\n        - name: default\n          pod: {}\n")
	b.WriteString("      volumes:\n        - name: root\n          persistentVolumeClaim:\n            claimName: " + quoteYAML(vm.Name) + "\n")
	return b.String(), nil
}

// quoteYAML writes a string for YAML. A double-quoted JSON string is a YAML string,
// too.
func quoteYAML(s string) string {
	var b strings.Builder
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(s); err != nil {
		panic("export: internal error: " + err.Error())
	}
	return strings.TrimSuffix(b.String(), "\n")
}
