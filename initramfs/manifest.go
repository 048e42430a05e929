package initramfs

import (
	"encoding/json"

	"github.com/rootvouch/rootvouch/pins"
)

const manifestVersion = 1

// Manifest lists the contents of a base. It is for people, and for comparing
// builds. No check relies on it.
type Manifest struct {
	Version          int            `json:"version"`
	KernelVersion    string         `json:"kernel_version"`
	SHA256           pins.Digest    `json:"base_sha256"`       // of the base, without boot.json
	Size             int            `json:"base_size"`         // bytes
	UncompressedSize int            `json:"uncompressed_size"` // bytes of the base's archive
	Modules          []string       `json:"modules"`           // in load order
	BuiltIn          []string       `json:"built_in"`          // wanted modules that are built into the kernel
	Missing          []string       `json:"missing"`           // optional modules that this kernel lacks
	Files            []ManifestFile `json:"files"`             // sorted by path
}

// ManifestFile is one regular file of the base.
type ManifestFile struct {
	Path   string      `json:"path"`
	Size   int         `json:"size"` // bytes
	SHA256 pins.Digest `json:"sha256"`
}

// Encode writes m as indented JSON with a newline at its end.
func (m Manifest) Encode() []byte {
	out, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		panic("initramfs: internal error: " + err.Error())
	}
	return append(out, '\n')
}
