package launch_test

import (
	"crypto/sha512"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/rootvouch/rootvouch/internal/needs"
	"github.com/rootvouch/rootvouch/snp/launch"
	"github.com/rootvouch/rootvouch/test/childtest"
	"github.com/rootvouch/rootvouch/test/firmwaretest"
)

// TestVMSAPages compares the pages with the published page digests.
func TestVMSAPages(t *testing.T) {
	v := readFigures(t)
	if len(v.Pages) == 0 {
		t.Error("got no pages")
	}
	for _, c := range v.Pages {
		vmm, err := launch.ParseVMM(strings.ToLower(c.VMM))
		if err != nil {
			t.Fatal(err)
		}
		features, err := strconv.ParseUint(c.Features, 0, 64)
		if err != nil {
			t.Fatal(err)
		}
		base, err := launch.NewBase(launch.SNP, mustFirmware(t, firmwaretest.AmdSev()))
		if err != nil {
			t.Fatal(err)
		}
		m, err := base.VMSAs(launch.VCPU{VMM: vmm, VMSA: launch.CurrentVMSA, CPU: mustCPU(t, c.Type), Features: features})
		if err != nil {
			t.Fatal(err)
		}
		first, other := m.Pages()
		for name, p := range map[string]struct {
			page []byte
			want string
		}{"first": {first, c.BSP}, "other": {other, c.AP}} {
			if got := sha512.Sum384(p.page); hex.EncodeToString(got[:]) != p.want {
				t.Errorf("%s %s, %s vCPU: VMSA has SHA-384 %x, want %s", c.VMM, c.Type, name, got, p.want)
			}
		}
	}
}

// TestGenerations checks that the older VMSA differs only in MXCSR and the x87
// control word.
func TestGenerations(t *testing.T) {
	base, err := launch.NewBase(launch.SNP, mustFirmware(t, firmwaretest.AmdSev()))
	if err != nil {
		t.Fatal(err)
	}
	vcpu := launch.VCPU{VMM: launch.QEMU, VMSA: launch.CurrentVMSA, CPU: mustCPU(t, "EPYC-v4"), Features: 1}
	current, err := base.VMSAs(vcpu)
	if err != nil {
		t.Fatal(err)
	}
	vcpu.VMSA = launch.PreLinux610
	older, err := base.VMSAs(vcpu)
	if err != nil {
		t.Fatal(err)
	}
	a, _ := current.Pages()
	b, _ := older.Pages()
	if mxcsr, fcw := binary.LittleEndian.Uint32(a[0x408:]), binary.LittleEndian.Uint16(a[0x410:]); mxcsr != 0x1f80 || fcw != 0x37f {
		t.Errorf("current: MXCSR %#x, FCW %#x, want 0x1f80, 0x37f", mxcsr, fcw)
	}
	for i := range a {
		if differs := a[i] != b[i]; differs && (i < 0x408 || i > 0x411) {
			t.Errorf("byte %#x differs", i)
		}
	}
	if binary.LittleEndian.Uint64(b[0x408:]) != 0 || binary.LittleEndian.Uint16(b[0x410:]) != 0 {
		t.Errorf("older: got %x at 0x408, want zeros", b[0x408:0x412])
	}
}

// TestCPUSignatures compares the signatures with the published ones.
func TestCPUSignatures(t *testing.T) {
	v := readFigures(t)
	if len(v.Types) == 0 || len(v.Models) == 0 {
		t.Errorf("got %d types and %d models", len(v.Types), len(v.Models))
	}
	for name, want := range v.Types {
		if got := mustCPU(t, name); fmt.Sprintf("%#x", got.Signature) != want {
			t.Errorf("%s: got %#x, want %s", name, got.Signature, want)
		}
	}
	for _, m := range v.Models {
		got, err := launch.CPUFromModel(m.Family, m.Model, m.Stepping)
		if err != nil || fmt.Sprintf("%#x", got.Signature) != m.Sig || got.Name != "sig:"+m.Sig {
			t.Errorf("%+v: got %+v, %v", m, got, err)
		}
	}
	for _, m := range [][3]uint32{{0x10f, 0, 0}, {0x17, 0x100, 0}, {0x17, 1, 0x10}, {6, 0x10, 0}} {
		if got, err := launch.CPUFromModel(m[0], m[1], m[2]); err == nil {
			t.Errorf("%v: got %+v, want an error", m, got)
		}
	}
}

// TestOracleQEMU asks QEMU for its EPYC models. CPUTypes must have each, with its
// signature.
func TestOracleQEMU(t *testing.T) {
	qemu := needs.Tool(t, "qemu-system-x86_64")
	known := map[string]launch.CPU{}
	for _, c := range launch.CPUTypes() {
		known[c.Name] = c
	}
	input := strings.NewReader(`{"execute":"qmp_capabilities"}` + `{"execute":"query-cpu-definitions"}` + expansions(known) + `{"execute":"quit"}`)
	cmd := childtest.Tied(exec.Command(qemu, "-machine", "none", "-accel", "tcg", "-display", "none", "-qmp", "stdio", "-S"))
	cmd.Stdin = input
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("running QEMU: %v", err)
	}
	compared := 0
	for d := json.NewDecoder(strings.NewReader(string(out))); d.More(); {
		var reply struct {
			ID     string
			Return json.RawMessage
		}
		if err := d.Decode(&reply); err != nil {
			t.Fatal(err)
		}
		if reply.ID != "" {
			var expansion struct {
				Model struct {
					Props struct{ Family, Model, Stepping uint32 }
				}
			}
			if len(reply.Return) == 0 {
				continue // a model that this QEMU does not have
			}
			if err := json.Unmarshal(reply.Return, &expansion); err != nil {
				t.Fatal(err)
			}
			p := expansion.Model.Props
			got, err := launch.CPUFromModel(p.Family, p.Model, p.Stepping)
			if err != nil || got.Signature != known[reply.ID].Signature {
				t.Errorf("%s: QEMU has %#x, %v, we have %#x", reply.ID, got.Signature, err, known[reply.ID].Signature)
			}
			compared++
			continue
		}
		var definitions []struct{ Name string }
		if json.Unmarshal(reply.Return, &definitions) != nil {
			continue
		}
		for _, d := range definitions {
			if _, ok := known[d.Name]; !ok && strings.HasPrefix(d.Name, "EPYC") {
				t.Errorf("QEMU has %s, which we do not know", d.Name)
			}
		}
	}
	if compared == 0 {
		t.Error("compared no model")
	}
}

func expansions(known map[string]launch.CPU) string {
	var b strings.Builder
	for name := range known {
		fmt.Fprintf(&b, `{"execute":"query-cpu-model-expansion","id":%q,"arguments":{"type":"full","model":{"name":%q}}}`, name, name)
	}
	return b.String()
}
