package release

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/rootvouch/rootvouch/internal/bounded"
	"github.com/rootvouch/rootvouch/internal/strictjson"
	"github.com/rootvouch/rootvouch/pins"
	"github.com/rootvouch/rootvouch/refval"
	"github.com/rootvouch/rootvouch/snp"
)

// Names of a release's files in its directory.
const (
	ManifestFile  = "manifest.json"
	VMFile        = "vm.json"
	DiskFile      = "disk.img"
	PinsFile      = "pins.json"
	FirmwareFile  = "firmware.fd"
	KernelFile    = "kernel.efi"
	InitramfsFile = "initramfs.img"
	BaseFile      = "initramfs.json" // what the base of the initramfs is made of
	BootFile      = "boot.json"
	RefvalFile    = "refval.json"

	// SealedKeyFile is the disk's key, encrypted to age recipients. It is in no
	// manifest: encryption draws new randomness each time.
	SealedKeyFile = "disk.key.age"
)

// files are those that a manifest lists.
func files() []string {
	return []string{VMFile, DiskFile, PinsFile, FirmwareFile, KernelFile, InitramfsFile, BaseFile, BootFile, RefvalFile}
}

// maxSmall bounds each file that Open reads, in bytes.
const maxSmall = refval.MaxSize

// Manifest says what a release is: manifest.json.
type Manifest struct {
	Version int `json:"version"`
	// Release is the beginning of the SHA-256 of the manifest with this member
	// empty, 12 hex digits.
	Release     string    `json:"release"`
	Name        string    `json:"name"`
	TrustDomain string    `json:"trust_domain"`
	SPIFFEID    string    `json:"spiffe_id"`
	Emulated    bool      `json:"emulated"`
	DiskUUID    pins.UUID `json:"disk_uuid"`
	CommandLine string    `json:"command_line"`
	// FetchkeySHA256 tells SPIRE's agent in the VM which program gets the SVID.
	FetchkeySHA256 pins.Digest     `json:"fetchkey_sha256"`
	Shapes         []Shape         `json:"shapes"`
	Volumes        []Mounted       `json:"volumes,omitempty"`
	Files          map[string]File `json:"files"` // :: name -> file
}

// Shape is one launch that is accepted, with its launch digest.
type Shape struct {
	VCPUs   int             `json:"vcpus"`
	CPUType string          `json:"cpu_type"`
	Digest  snp.Measurement `json:"digest"`
}

// Mounted is one volume that the VM mounts, with the pins that it had.
type Mounted struct {
	pins.Header
	Size uint64 `json:"size"` // bytes
	Mount
}

// File is one file of a release.
type File struct {
	Size   int64       `json:"size"` // bytes
	SHA256 pins.Digest `json:"sha256"`
}

// seal fills in the release's ID.
func (m *Manifest) seal() {
	m.Release = ""
	sum := sha256.Sum256(m.encode())
	m.Release = fmt.Sprintf("%x", sum[:6])
}

func (m *Manifest) encode() []byte {
	data, err := strictjson.MarshalIndent(m)
	if err != nil {
		panic("release: internal error: encoding a manifest: " + err.Error())
	}
	return data
}

// decodeManifest reads what encode writes, and nothing else.
func decodeManifest(data []byte) (Manifest, error) {
	var m Manifest
	if err := strictjson.Unmarshal(data, &m); err != nil {
		return Manifest{}, fmt.Errorf("decoding manifest: %v", err)
	}
	if m.Version != version {
		return Manifest{}, fmt.Errorf("decoding manifest: version is %d, want %d", m.Version, version)
	}
	if want := files(); !slices.Equal(slices.Sorted(maps.Keys(m.Files)), slices.Sorted(slices.Values(want))) {
		return Manifest{}, fmt.Errorf("decoding manifest: files are %q, want %q", slices.Sorted(maps.Keys(m.Files)), want)
	}
	got := m.Release
	if m.seal(); m.Release != got || !bytes.Equal(m.encode(), data) {
		return Manifest{}, fmt.Errorf("decoding manifest: it is not as it was written: release is %q, want %q", got, m.Release)
	}
	return m, CheckName(m.Name)
}

// Release is a release's directory that was read: its small files are those that the
// manifest names.
type Release struct {
	Dir      string
	Manifest Manifest
	VM       VM
	Pins     pins.Pins
	Values   refval.Values
	Refval   []byte // encoded Values
}

// Path returns the path of one of the release's files.
func (r *Release) Path(name string) string { return filepath.Join(r.Dir, name) }

// Open reads a release's directory. The files of a VM's launch are not read: see
// Verify.
func Open(dir string) (*Release, error) {
	data, err := readSmall(filepath.Join(dir, ManifestFile))
	if err != nil {
		return nil, fmt.Errorf("opening release: %w", err)
	}
	r := &Release{Dir: dir}
	if r.Manifest, err = decodeManifest(data); err != nil {
		return nil, fmt.Errorf("opening release: %s: %w", filepath.Join(dir, ManifestFile), err)
	}
	small := map[string][]byte{}
	for _, name := range []string{VMFile, PinsFile, RefvalFile} {
		if small[name], err = readSmall(r.Path(name)); err != nil {
			return nil, fmt.Errorf("opening release: %w", err)
		}
		if want := r.Manifest.Files[name].SHA256; sha256.Sum256(small[name]) != want {
			return nil, fmt.Errorf("opening release: %s has SHA-256 %x, the manifest has %s", r.Path(name), sha256.Sum256(small[name]), want)
		}
	}
	// The paths of what it was built from mean nothing here.
	if r.VM, err = Decode(small[VMFile], dir); err != nil {
		return nil, fmt.Errorf("opening release: %w", err)
	}
	if r.Pins, err = pins.Decode(small[PinsFile]); err != nil {
		return nil, fmt.Errorf("opening release: %s: %w", r.Path(PinsFile), err)
	}
	r.Refval = small[RefvalFile]
	if r.Values, err = refval.Decode(r.Refval); err != nil {
		return nil, fmt.Errorf("opening release: %s: %w", r.Path(RefvalFile), err)
	}
	if p, ok := r.Values.Pins.Value(); !ok || p.DiskUUID != r.Pins.DiskUUID || r.Manifest.DiskUUID != r.Pins.DiskUUID || r.VM.Name != r.Manifest.Name {
		return nil, fmt.Errorf("opening release: %s is not of one piece: manifest, pins and reference values name different disks or VMs", dir)
	}
	return r, nil
}

func readSmall(path string) ([]byte, error) { return bounded.ReadFile(path, maxSmall) }

// Verify reads every file of the release and compares it with the manifest. Files
// that the manifest does not name are refused, but for a sealed key.
func (r *Release) Verify() error {
	for _, name := range slices.Sorted(maps.Keys(r.Manifest.Files)) {
		got, err := sumFile(r.Path(name))
		if err != nil {
			return err
		}
		if want := r.Manifest.Files[name]; got != want {
			return fmt.Errorf("%s has %d bytes and SHA-256 %s, the manifest has %d and %s", r.Path(name), got.Size, got.SHA256, want.Size, want.SHA256)
		}
	}
	return filepath.WalkDir(r.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == r.Dir {
			return err
		}
		name := d.Name()
		if _, listed := r.Manifest.Files[name]; listed || name == ManifestFile || name == SealedKeyFile {
			return nil
		}
		return fmt.Errorf("%s is not in the manifest", path)
	})
}

func sumFile(path string) (File, error) {
	f, err := os.Open(path)
	if err != nil {
		return File{}, err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		return File{}, fmt.Errorf("reading %s: %w", path, err)
	}
	return File{Size: n, SHA256: pins.Digest(h.Sum(nil))}, nil
}
