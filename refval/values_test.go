package refval_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/refval"
	"github.com/rootvouch/rootvouch/snp"
)

func measurement() refval.Measurement {
	return refval.Measurement{
		Digest: snp.Measurement{1}, HostCode: refval.HostCodeNone, Kernel: refval.KernelMeasured, Gate: "9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a", VCPUs: 2, CPUType: "EPYC-v4",
		Provenance: refval.Provenance{FirmwareSHA256: pins.Digest{2}, KernelSHA256: pins.Digest{3}, InitramfsSHA256: pins.Digest{4}, CommandLine: "console=ttyS0 a<b"},
	}
}

func values() refval.Values {
	return refval.New(refval.AMD(), []refval.Measurement{measurement()},
		refval.Product{Name: snp.Genoa, MinimumTCB: refval.Any[snp.TCB]()},
		refval.Product{Name: snp.Turin, MinimumTCB: refval.Any[snp.TCB]()})
}

func encode(t testing.TB, v refval.Values) []byte {
	t.Helper()
	data, err := v.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestRoundTrip(t *testing.T) {
	narrow := refval.New(refval.EmulatedARK(pins.Digest{9}), []refval.Measurement{measurement()},
		refval.Product{Name: snp.Turin, MinimumTCB: refval.Exactly(snp.TCB{FMC: 1, SNP: 4})})
	narrow.GuestPolicy.MinimumABI = refval.Exactly(refval.ABI{Major: 1, Minor: 51})
	narrow.MinimumGuestSVN = refval.Exactly[uint32](7)
	narrow.FamilyID, narrow.ImageID = refval.Exactly(snp.GuestID{1}), refval.Exactly(snp.GuestID{})
	narrow.HostData = refval.Exactly(snp.HostData{5})
	narrow.Chips = refval.Exactly([]snp.ChipID{{6}})
	narrow.Deny = refval.Deny{ChipIDs: []snp.ChipID{{7}}, Keys: []pins.Digest{{8}}}
	for _, v := range []refval.Values{values(), narrow} {
		data := encode(t, v)
		got, err := refval.Decode(data)
		if err != nil {
			t.Fatalf("%v\n%s", err, data)
		}
		if diff := cmp.Diff(string(data), string(encode(t, got))); diff != "" {
			t.Error(diff)
		}
	}
}

// TestDefaults holds what nobody may widen by accident.
func TestDefaults(t *testing.T) {
	v := refval.New(refval.AMD(), []refval.Measurement{measurement()})
	if err := v.Check(); err == nil || !strings.Contains(err.Error(), "products is empty") {
		t.Errorf("values for AMD that name no product: got %v, want them refused", err)
	}
	if v.PlatformInfo.AliasCheckComplete != refval.Required {
		t.Error("with AMD as the root a host is taken that did not check its memory for aliases")
	}
	emulated := refval.New(refval.EmulatedARK(pins.Digest{1}), []refval.Measurement{measurement()})
	if len(emulated.Products) != 1 || emulated.Products[0] != (refval.Product{Name: snp.Genoa, MinimumTCB: refval.Any[snp.TCB]()}) {
		t.Errorf("emulated products: got %v, want Genoa alone", emulated.Products)
	}
	if v.GuestPolicy.Debug != refval.Forbidden || v.GuestPolicy.MigrationAgent != refval.Forbidden {
		t.Errorf("guest policy: got %+v", v.GuestPolicy)
	}
	if vmpl, exact := v.VMPL.Value(); !exact || vmpl != 0 {
		t.Error("VMPL is not exactly 0 in the default")
	}
	if err := (refval.Values{}).Check(); err == nil {
		t.Error("Check takes the zero value")
	}
	if _, ok := (refval.RootOfTrust{}).Emulated(); ok {
		t.Error("the zero root of trust accepts an emulated ARK")
	}
	if refval.Bit("").Allows(true) || refval.Bit("").Allows(false) {
		t.Error("the zero bit allows something")
	}
	if refval.Exactly(3).IsAny() || (refval.Want[int]{}).IsAny() || !refval.Any[int]().IsAny() {
		t.Error("IsAny is wrong")
	}
}

// TestEveryFieldRequired takes each field away, at every depth.
func TestEveryFieldRequired(t *testing.T) {
	v := values()
	v.Products[0].MinimumTCB = refval.Exactly(snp.TCB{})
	v.RootOfTrust = refval.EmulatedARK(pins.Digest{1})
	var doc map[string]any
	if err := json.Unmarshal(encode(t, v), &doc); err != nil {
		t.Fatal(err)
	}
	removed := 0
	var walk func(path string, node any)
	walk = func(path string, node any) {
		switch node := node.(type) {
		case []any:
			for _, e := range node {
				walk(path+"[]", e)
			}
		case map[string]any:
			for name, value := range node {
				delete(node, name)
				removed++
				data, err := json.Marshal(doc)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := refval.Decode(data); err == nil {
					t.Errorf("Decode takes values without %s.%s", path, name)
				}
				node[strings.ToUpper(name)] = value
				if data, err = json.Marshal(doc); err != nil {
					t.Fatal(err)
				}
				if _, err := refval.Decode(data); err == nil {
					t.Errorf("Decode takes values with %s.%s in capitals", path, name)
				}
				delete(node, strings.ToUpper(name))
				node[name] = value
				walk(path+"."+name, value)
			}
		}
	}
	walk("", doc)
	if removed < 50 {
		t.Errorf("only %d fields were tried", removed)
	}
}

func TestDecodeRefuses(t *testing.T) {
	good := string(encode(t, values()))
	for _, row := range []struct{ old, new, want string }{
		{`"version": 1`, `"version": 2`, "version is 2"},
		{`"amd"`, `"AMD"`, "root_of_trust"},
		{`"amd"`, `["amd"]`, "root_of_trust"},
		{`"amd"`, `{"emulated_ark_sha256": "` + strings.Repeat("0", 64) + `"}`, "neither amd nor"},
		{`"amd"`, `{"emulated_ark_sha256": "` + strings.Repeat("1", 64) + `", "amd": true}`, "unknown member"},
		{`"name": "Genoa"`, `"name": "genoa"`, "want one of"},
		{`"name": "Genoa"`, `"name": "Turin"`, "occurs twice"},
		{`"name": "Genoa"`, `"name": "Genoa", "name": "Milan"`, "twice"},
		{`"VCEK"`, `"vcek"`, "want VCEK or VLEK"},
		{`"VCEK"`, `"VCEK", "VCEK"`, "occurs twice"},
		{`"vcpus": 2`, `"vcpus": 0`, "vcpus is 0"},
		{`"cpu_type": "EPYC-v4"`, `"cpu_type": ""`, "cpu_type is empty"},
		{`"host_code": "none"`, `"host_code": ""`, `host_code is ""`},
		{`"host_code": "none"`, `"host_code": "any"`, `host_code is "any"`},
		{`"gate": "9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a"`, `"gate": ""`, `gate is ""`},
		{`"gate": "9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a"`, `"gate": "any"`, `gate is "any"`},
		{`"gate": "9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a"`, `"gate": "9A9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a9a"`, `gate is "9A`},
		{`"kernel": "measured"`, `"kernel": ""`, `kernel is ""`},
		{`"kernel": "measured"`, `"kernel": "any"`, `kernel is "any"`},
		{`"kernel": "measured"`, `"kernel": "unmeasured"`, `kernel is "unmeasured" but kernel_sha256 is 03`},
		{`"kernel_sha256": "03`, `"kernel_sha256": "00`, "the digest covers no kernel"},
		{`"debug": "forbidden"`, `"debug": "allowed"`, "want required, forbidden or any"},
		{`"vmpl": 0`, `"vmpl": 4`, "vmpl is 4"},
		{`"vmpl": 0`, `"vmpl": null`, "vmpl"},
		{`"vmpl": 0`, `"vmpl": "0"`, "want a whole number from 0"},
		{`"vmpl": 0`, `"vmpl": "Any"`, "want a whole number from 0"},
		{`"chips": "any"`, `"chips": []`, "chips is empty"},
		{`"chip_ids": []`, `"chip_ids": null`, "chip_ids"},
		{`"minimum_abi": "any"`, `"minimum_abi": "1.051"`, "want a version"},
		{`"minimum_guest_svn": "any"`, `"minimum_guest_svn": -1`, "want a whole number from 0"},
		{`"pins": "any"`, `"pins": {}`, "missing"},
	} {
		if !strings.Contains(good, row.old) {
			t.Errorf("the example has no %s", row.old)
			continue
		}
		_, err := refval.Decode([]byte(strings.Replace(good, row.old, row.new, 1)))
		if err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: got %v, want an error with %q", row.new, err, row.want)
		}
	}
	if _, err := refval.Decode(append([]byte(good), '{')); err == nil {
		t.Error("Decode takes data after the values")
	}
	if _, err := refval.Decode(make([]byte, refval.MaxSize+1)); err == nil {
		t.Error("Decode takes more than MaxSize")
	}
}

// TestUnmeasuredKernel: a measurement that covers no kernel is valid where it says so,
// and CheckKernels is what tells it from others.
func TestUnmeasuredKernel(t *testing.T) {
	v := values()
	if err := v.CheckKernels(); err != nil {
		t.Error(err)
	}
	m := &v.Measurements[0]
	m.Kernel, m.Provenance = refval.KernelUnmeasured, refval.Provenance{FirmwareSHA256: pins.Digest{2}}
	if err := v.Check(); err == nil || !strings.Contains(err.Error(), "a gate is measured with a kernel only") {
		t.Errorf("with a gate: got %v, want an error", err)
	}
	m.Gate = refval.GateNone
	got, err := refval.Decode(encode(t, v))
	if err != nil {
		t.Fatal(err)
	}
	if err := got.CheckKernels(); err == nil || !strings.Contains(err.Error(), `kernel is "unmeasured", want "measured"`) {
		t.Errorf("got %v, want an error about the kernel", err)
	}
	for _, p := range []refval.Provenance{{CommandLine: "quiet"}, {InitramfsSHA256: pins.Digest{1}}} {
		m.Provenance = p
		if err := v.Check(); err == nil || !strings.Contains(err.Error(), "measured with a kernel only") {
			t.Errorf("%+v: got %v, want an error", p, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"version":1}`))
	f.Add(encode(f, values()))
	f.Add(encode(f, refval.New(refval.EmulatedARK(pins.Digest{9}), []refval.Measurement{measurement(), measurement()},
		refval.Product{Name: snp.Turin, MinimumTCB: refval.Exactly(snp.TCB{FMC: 1, SNP: 2})})))
	f.Fuzz(func(t *testing.T, data []byte) {
		v, err := refval.Decode(data)
		if err != nil {
			return
		}
		once, err := v.Encode()
		if err != nil {
			t.Fatalf("what decodes does not encode: %v", err)
		}
		again, err := refval.Decode(once)
		if err != nil {
			t.Fatalf("what was encoded does not decode: %v", err)
		}
		twice, err := again.Encode()
		if err != nil || !bytes.Equal(once, twice) {
			t.Errorf("encoding is not stable: %v", err)
		}
	})
}

// TestSeeds: a seed that does not decode any more leads a fuzzer nowhere.
func TestSeeds(t *testing.T) {
	seeds, err := filepath.Glob("testdata/fuzz/FuzzDecode/*")
	if err != nil || len(seeds) == 0 {
		t.Fatalf("got seeds %q, %v", seeds, err)
	}
	for _, name := range seeds {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		_, quoted, ok := strings.Cut(string(text), "[]byte(")
		data, err := strconv.Unquote(strings.TrimSuffix(strings.TrimSpace(quoted), ")"))
		if !ok || err != nil {
			t.Fatalf("%s is no seed: %v", name, err)
		}
		if _, err := refval.Decode([]byte(data)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestSpecExample reads the example of docs/spec/refval.md.
func TestSpecExample(t *testing.T) {
	text, err := os.ReadFile("../docs/spec/refval.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(text), "```json\n")
	example, _, end := strings.Cut(rest, "```")
	if !ok || !end {
		t.Fatal("the specification has no example")
	}
	v, err := refval.Decode([]byte(example))
	if err != nil {
		t.Fatal(err)
	}
	if p, ok := v.Accepts(snp.Genoa); !ok || p.MinimumTCB.IsAny() || v.PlatformInfo.AliasCheckComplete != refval.Required {
		t.Errorf("got %+v", v)
	}
}
