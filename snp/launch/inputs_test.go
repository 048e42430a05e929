package launch_test

import (
	"crypto/sha512"
	"errors"
	"reflect"
	"testing"

	"github.com/rootvouch/rootvouch/snp/launch"
)

// TestCheckNamesTheField breaks one input of a launch at a time, before any file
// is read.
func TestCheckNamesTheField(t *testing.T) {
	qemu := launch.VCPU{VMM: launch.QEMU, VMSA: launch.CurrentVMSA, CPU: launch.AnyCPU(), Features: 1}
	if cpu, err := launch.LookupCPU("EPYC-v4"); err == nil {
		qemu.CPU = cpu
	}
	ec2 := qemu
	ec2.VMM = launch.EC2
	with := func(v launch.VCPU, change func(*launch.VCPU)) launch.VCPU { change(&v); return v }
	for _, c := range []struct {
		field string // "" is accepted
		in    launch.Inputs
		files launch.Files
	}{
		{"", launch.Inputs{Mode: launch.SNP, VCPU: qemu}, launch.Files{}},
		{"", launch.Inputs{Mode: launch.SNP, VCPU: qemu, FirmwareDigest: new([sha512.Size384]byte)}, launch.Files{Kernel: true}},
		{"", launch.Inputs{Mode: launch.SNPSVSM, VCPU: qemu, VarsSize: 0x1000}, launch.Files{SVSM: true}},
		{"", launch.Inputs{Mode: launch.SEV}, launch.Files{Kernel: true}},
		{"Mode", launch.Inputs{VCPU: qemu}, launch.Files{}},
		{"VMM", launch.Inputs{Mode: launch.SNP}, launch.Files{}},
		{"VMM", launch.Inputs{Mode: launch.SNPSVSM, VCPU: ec2, VarsSize: 0x1000}, launch.Files{SVSM: true}},
		{"VMSA", launch.Inputs{Mode: launch.SNP, VCPU: with(qemu, func(v *launch.VCPU) { v.VMSA = 0 })}, launch.Files{}},
		{"VMSA", launch.Inputs{Mode: launch.SNP, VCPU: with(ec2, func(v *launch.VCPU) { v.VMSA = launch.PreLinux610 })}, launch.Files{}},
		{"CPU", launch.Inputs{Mode: launch.SNP, VCPU: with(qemu, func(v *launch.VCPU) { v.CPU = launch.CPU{} })}, launch.Files{}},
		{"Features", launch.Inputs{Mode: launch.SNP, VCPU: with(qemu, func(v *launch.VCPU) { v.Features = 0x20 })}, launch.Files{}},
		{"FirmwareDigest", launch.Inputs{Mode: launch.SEVES, VCPU: qemu, FirmwareDigest: new([sha512.Size384]byte)}, launch.Files{}},
		{"SVSM", launch.Inputs{Mode: launch.SNP, VCPU: qemu}, launch.Files{SVSM: true}},
		{"SVSM", launch.Inputs{Mode: launch.SNPSVSM, VCPU: qemu, VarsSize: 0x1000}, launch.Files{}},
		{"VarsSize", launch.Inputs{Mode: launch.SNP, VCPU: qemu, VarsSize: 0x1000}, launch.Files{}},
		{"VarsSize", launch.Inputs{Mode: launch.SNPSVSM, VCPU: qemu}, launch.Files{SVSM: true}},
		{"VarsSize", launch.Inputs{Mode: launch.SNPSVSM, VCPU: qemu, VarsSize: 528}, launch.Files{SVSM: true}},
		{"Hashes", launch.Inputs{Mode: launch.SNPSVSM, VCPU: qemu, VarsSize: 0x1000}, launch.Files{SVSM: true, Kernel: true}},
	} {
		err := c.in.Check(c.files)
		wrong, named := errors.AsType[*launch.InputError](err)
		switch {
		case c.field == "" && err != nil, c.field != "" && (!named || wrong.Field != c.field):
			t.Errorf("%+v with %+v: got error %v, want field %q", c.in, c.files, err, c.field)
		case named && !hasField(wrong.Field):
			t.Errorf("%q is no field of Inputs or VCPU", wrong.Field)
		}
	}
}

func hasField(name string) bool {
	_, ok := reflect.TypeFor[launch.Inputs]().FieldByName(name) // fields of the embedded VCPU included
	return ok
}
