package launch_test

import (
	"bytes"
	"crypto/sha256"
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
)

// blob is a file of a vector, whose contents stand in the vector in hex.
type blob struct{ Hex string }

// vector is one case of published.json.
type vector struct {
	ID, Mode, VMM string
	VCPUs         int    `json:"vcpus"`
	CPUType       string `json:"vcpu_type"`
	Firmware      string `json:"ovmf"`
	FirmwareHash  string `json:"ovmf_hash_seed"`
	Kernel        *blob
	Initrd        *blob
	Append        *string
	Features      string  `json:"guest_features"`
	SVSM          string  `json:"svsm"`
	VarsSize      uint64  `json:"ovmf_vars_size"`
	Expected      string  `json:"expected"`
	ExpectedError *string `json:"expected_error"`
}

type published struct {
	FilesSHA256  map[string]string                 `json:"files_sha256"`
	FirmwareHash []struct{ OVMF, Expected string } `json:"ovmf_hash"`
	Vectors      []vector
}

func readJSON(t testing.TB, name string, v any) {
	t.Helper()
	data, err := os.ReadFile(needs.Vectors(t, "launch-digest/"+name))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, v); err != nil {
		t.Fatal(err)
	}
}

func readVectors(t testing.TB) published {
	t.Helper()
	var p published
	readJSON(t, "published.json", &p)
	return p
}

func firmwareVector(t testing.TB, name string) *launch.Firmware {
	t.Helper()
	data, err := os.ReadFile(needs.Vectors(t, "launch-digest/"+name))
	if err != nil {
		t.Fatal(err)
	}
	f, err := launch.ParseFirmware(data)
	if err != nil {
		t.Fatalf("parsing %s: %v", name, err)
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

// inputs turns a vector into inputs. A vector without a CPU type gets EPYC-v4.
func (v vector) inputs(t testing.TB) launch.Inputs {
	t.Helper()
	modes := map[string]launch.Mode{"SEV": launch.SEV, "SEV_ES": launch.SEVES, "SEV_SNP": launch.SNP, "SEV_SNP_SVSM": launch.SNPSVSM}
	vmms := map[string]launch.VMM{"QEMU": launch.QEMU, "EC2": launch.EC2, "GCE": launch.GCE}
	features, err := strconv.ParseUint(v.Features, 0, 64)
	if err != nil {
		t.Fatal(err)
	}
	in := launch.Inputs{
		Mode: modes[v.Mode], Firmware: firmwareVector(t, v.Firmware), VCPUs: v.VCPUs, VarsSize: v.VarsSize,
		VCPU: launch.VCPU{VMM: vmms[v.VMM], VMSA: launch.CurrentVMSA, CPU: mustCPU(t, "EPYC-v4"), Features: features},
	}
	if v.CPUType != "" {
		in.CPU = mustCPU(t, v.CPUType)
	}
	if v.SVSM != "" {
		in.SVSM = firmwareVector(t, v.SVSM)
	}
	if v.FirmwareHash != "" {
		digest := [48]byte(mustHex(t, v.FirmwareHash))
		in.FirmwareDigest = &digest
	}
	if v.Kernel != nil {
		var initrd []byte
		if v.Initrd != nil {
			initrd = mustHex(t, v.Initrd.Hex)
		}
		var commandLine string
		if v.Append != nil {
			commandLine = *v.Append
		}
		in.Hashes = mustHashes(t, mustHex(t, v.Kernel.Hex), initrd, commandLine)
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

// TestPublished computes every published digest.
func TestPublished(t *testing.T) {
	p := readVectors(t)
	if len(p.Vectors) != 26 {
		t.Errorf("got %d published vectors, want 26", len(p.Vectors))
	}
	for _, v := range p.Vectors {
		t.Run(v.ID, func(t *testing.T) {
			got, err := launch.Compute(v.inputs(t))
			if v.ExpectedError != nil {
				var format *launch.FormatError
				if !errors.As(err, &format) || !strings.Contains(err.Error(), "cannot check a kernel") {
					t.Fatalf("got %v, %v, want a FormatError that says that the firmware cannot check a kernel", got, err)
				}
				return
			}
			if err != nil || got.String() != v.Expected {
				t.Fatalf("got %v, %v\nwant %s", got, err, v.Expected)
			}
		})
	}
}

func TestPublishedFirmwareDigests(t *testing.T) {
	p := readVectors(t)
	for name, want := range p.FilesSHA256 {
		data, err := os.ReadFile(needs.Vectors(t, "launch-digest/"+name))
		if err != nil {
			t.Fatal(err)
		}
		if got := sha256.Sum256(data); hex.EncodeToString(got[:]) != want {
			t.Errorf("%s has SHA-256 %x, want %s", name, got, want)
		}
	}
	if len(p.FirmwareHash) == 0 {
		t.Error("got no firmware digests")
	}
	for _, v := range p.FirmwareHash {
		base, err := launch.NewBase(launch.SNP, firmwareVector(t, v.OVMF))
		if err != nil {
			t.Fatal(err)
		}
		got, err := base.FirmwareDigest()
		if err != nil || hex.EncodeToString(got[:]) != v.Expected {
			t.Errorf("%s: got %x, %v, want %s", v.OVMF, got, err, v.Expected)
		}
	}
}

// firmwareVectorBytes is a firmware of the vectors, or nothing without them.
func firmwareVectorBytes(f *testing.F, name string) []byte {
	f.Helper()
	data, err := os.ReadFile(filepath.Join(needs.Repository(f), "..", "shared", "vectors", "launch-digest", name))
	if err != nil {
		return nil
	}
	return data
}
