package launch_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rootvouch/rootvouch/internal/needs"
	"github.com/rootvouch/rootvouch/snp/launch"
	"github.com/rootvouch/rootvouch/test/firmwaretest"
)

// A figure is a launch and its digest.
type figure struct {
	Name, Mode, VMM string
	VCPUs           int     `json:"vcpus"`
	CPUType         string  `json:"vcpu_type"`
	Firmware        string  // a build that firmwaretest imitates
	FirmwareDigest  string  `json:"firmware_digest"` // stands for the firmware's contents
	Kernel          *string // in hex; absent without a kernel
	Initrd          *string // in hex
	Append          string
	Features        string `json:"guest_features"`
	SVSM            bool
	VarsSize        uint64 `json:"vars_size"`
	Digest          string
	Refused         bool // because the firmware cannot check a kernel
}

// figures is testdata/figures.json. ORIGIN.md beside it names the origin of each
// figure.
type figures struct {
	Published, Computed []figure
	Pages               []struct {
		VMM, BSP, AP string
		Type         string `json:"vcpu_type"`
		Features     string `json:"guest_features"`
	} `json:"vmsa_pages"`
	Tables []struct {
		Kernel         string
		Initrd, Append *string
		Table, Page    string
	} `json:"hashes_tables"`
	Types  map[string]string `json:"cpu_types"`
	Models []struct {
		Family, Model, Stepping uint32
		Sig                     string
	} `json:"cpu_models"`
}

func readFigures(t testing.TB) figures {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("testdata", "figures.json"))
	if err != nil {
		t.Fatal(err)
	}
	var f figures
	if err := json.Unmarshal(data, &f); err != nil {
		t.Fatal(err)
	}
	return f
}

func mustFirmware(t testing.TB, image firmwaretest.Image) *launch.Firmware {
	t.Helper()
	f, err := launch.ParseFirmware(image.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func mustHashes(t testing.TB, kernel, initrd []byte, commandLine string) *launch.Hashes {
	t.Helper()
	h, err := launch.HashKernel(bytes.NewReader(kernel), bytes.NewReader(initrd), commandLine)
	if err != nil {
		t.Fatal(err)
	}
	return &h
}

// inputs turns a figure into inputs; firmware and svsm are its images. A figure
// without a CPU type gets EPYC-v4.
func (f figure) inputs(t testing.TB, firmware, svsm *launch.Firmware) launch.Inputs {
	t.Helper()
	modes := map[string]launch.Mode{"SEV": launch.SEV, "SEV_ES": launch.SEVES, "SEV_SNP": launch.SNP, "SEV_SNP_SVSM": launch.SNPSVSM}
	vmm, err := launch.ParseVMM(strings.ToLower(f.VMM))
	if err != nil {
		t.Fatal(err)
	}
	features, err := strconv.ParseUint(f.Features, 0, 64)
	if err != nil {
		t.Fatal(err)
	}
	in := launch.Inputs{
		Mode: modes[f.Mode], Firmware: firmware, VCPUs: f.VCPUs, VarsSize: f.VarsSize,
		VCPU: launch.VCPU{VMM: vmm, VMSA: launch.CurrentVMSA, CPU: mustCPU(t, "EPYC-v4"), Features: features},
	}
	if f.CPUType != "" {
		in.CPU = mustCPU(t, f.CPUType)
	}
	if f.SVSM {
		in.SVSM = svsm
	}
	if f.FirmwareDigest != "" {
		digest := [48]byte(mustHex(t, f.FirmwareDigest))
		in.FirmwareDigest = &digest
	}
	if f.Kernel != nil {
		var initrd []byte
		if f.Initrd != nil {
			initrd = mustHex(t, *f.Initrd)
		}
		in.Hashes = mustHashes(t, mustHex(t, *f.Kernel), initrd, f.Append)
	}
	return in
}

func mustHex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func mustCPU(t testing.TB, name string) launch.CPU {
	t.Helper()
	c, err := launch.LookupCPU(name)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// check computes the digest of in.
func (f figure) check(t *testing.T, in launch.Inputs) {
	t.Helper()
	got, err := launch.Compute(in)
	if f.Refused {
		var format *launch.FormatError
		if !errors.As(err, &format) || !strings.Contains(err.Error(), "cannot check a kernel") {
			t.Errorf("got %v, %v, want a FormatError that says that the firmware cannot check a kernel", got, err)
		}
		return
	}
	if err != nil || got.String() != f.Digest {
		t.Errorf("got %v, %v\nwant %s", got, err, f.Digest)
	}
}

// TestPublished computes the digests that another program's authors published, and
// the digests of that program for our firmware.
func TestPublished(t *testing.T) {
	all := readFigures(t)
	if len(all.Published) != 17 || len(all.Computed) != 22 {
		t.Errorf("got %d published and %d computed digests, want 17 and 22", len(all.Published), len(all.Computed))
	}
	images := map[string]*launch.Firmware{"AmdSev": mustFirmware(t, firmwaretest.AmdSev()), "OVMF": mustFirmware(t, firmwaretest.OVMF())}
	svsm := mustFirmware(t, firmwaretest.SVSM())
	for set, list := range map[string][]figure{"published": all.Published, "computed": all.Computed} {
		for _, f := range list {
			t.Run(set+"/"+f.Name, func(t *testing.T) { f.check(t, f.inputs(t, images[f.Firmware], svsm)) })
		}
	}
}

// TestSharedVectors computes every published digest over the firmware for which it
// was published, if ../shared/vectors has that firmware.
func TestSharedVectors(t *testing.T) {
	read := func(name string) []byte {
		data, err := os.ReadFile(needs.Vectors(t, "launch-digest/"+name))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	parse := func(name string) *launch.Firmware {
		f, err := launch.ParseFirmware(read(name))
		if err != nil {
			t.Fatalf("parsing %s: %v", name, err)
		}
		return f
	}
	type blob struct{ Hex string }
	var published struct {
		FirmwareHash []struct{ OVMF, Expected string } `json:"ovmf_hash"`
		Vectors      []struct {
			figure
			ID             string
			Firmware       string `json:"ovmf"`
			FirmwareHash   string `json:"ovmf_hash_seed"`
			Kernel, Initrd *blob
			Append         *string
			SVSM           string
			VarsSize       uint64 `json:"ovmf_vars_size"`
			Expected       string
			ExpectedError  *string `json:"expected_error"`
		}
	}
	if err := json.Unmarshal(read("published.json"), &published); err != nil {
		t.Fatal(err)
	}
	if len(published.Vectors) != 26 || len(published.FirmwareHash) == 0 {
		t.Errorf("got %d published vectors and %d firmware digests", len(published.Vectors), len(published.FirmwareHash))
	}
	for _, v := range published.Vectors {
		t.Run(v.ID, func(t *testing.T) {
			f := v.figure
			f.FirmwareDigest, f.VarsSize, f.Digest, f.Refused = v.FirmwareHash, v.VarsSize, v.Expected, v.ExpectedError != nil
			if v.Kernel != nil {
				f.Kernel = &v.Kernel.Hex
			}
			if v.Initrd != nil {
				f.Initrd = &v.Initrd.Hex
			}
			if v.Append != nil {
				f.Append = *v.Append
			}
			var svsm *launch.Firmware
			if f.SVSM = v.SVSM != ""; f.SVSM {
				svsm = parse(v.SVSM)
			}
			f.check(t, f.inputs(t, parse(v.Firmware), svsm))
		})
	}
	for _, v := range published.FirmwareHash {
		base, err := launch.NewBase(launch.SNP, parse(v.OVMF))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := base.FirmwareDigest(); err != nil || hex.EncodeToString(got[:]) != v.Expected {
			t.Errorf("%s: got %x, %v, want %s", v.OVMF, got, err, v.Expected)
		}
	}
}
