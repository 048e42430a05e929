package luks2

// kind holds the values in which the profiles differ.
type kind struct {
	keySize   int        // of the volume key, in bytes
	integrity *integrity // nil for a disk
}

func disk() kind { return kind{keySize: VolumeKeySize} }

func authenticated() kind {
	return kind{AuthenticatedKeySize, &integrity{Type: Integrity, JournalEncryption: "none", JournalIntegrity: "none"}}
}

// areaUsed is how many bytes of the keyslot's area hold the split volume key.
func (k kind) areaUsed() int { return stripes * k.keySize }

func (k kind) areaSize() int { return (k.areaUsed() + 4095) / 4096 * 4096 }
