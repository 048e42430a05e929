package snp

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
)

// KeyExtensions are AMD's extensions in the certificate of an endorsement key. They
// name the key's product, chip or provider, and TCB (57230, section 3; OIDs
// 1.3.6.1.4.1.3704.1.*).
type KeyExtensions struct {
	// StructVersion is 0 for Milan and Genoa, 1 for Turin.
	StructVersion uint8
	// ProductName is the product, with a stepping in older certificates:
	// "Genoa", "Milan-B0". See [ParseProductName].
	ProductName string
	// TCB is the TCB that the key was derived for.
	TCB TCB
	// HWID is the chip of a VCEK: 64 bytes, on Turin 8. A VLEK has none.
	HWID []byte
	// HWIDWrapped says that HWID is inside an OCTET STRING of its own, as in some
	// certificates. Otherwise HWID is the bare content of the extension.
	HWIDWrapped bool
	// CSPID is the cloud provider of a VLEK. A VCEK has none.
	CSPID string
}

// The last arcs of AMD's OIDs, below 1.3.6.1.4.1.3704.1.
const (
	oidStructVersion = "1"
	oidProductName   = "2"
	oidBootloader    = "3.1"
	oidTEE           = "3.2"
	oidSNP           = "3.3"
	oidSPL4          = "3.4"
	oidSPL5          = "3.5"
	oidSPL6          = "3.6"
	oidSPL7          = "3.7"
	oidMicrocode     = "3.8"
	oidFMC           = "3.9"
	oidHWID          = "4"
	oidCSPID         = "5"
)

// amdArc returns the common prefix of AMD's OIDs.
func amdArc() asn1.ObjectIdentifier { return asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1} }

// Product returns the product that ProductName names.
func (k KeyExtensions) Product() (Product, error) { return ParseProductName(k.ProductName) }

// Kind returns the kind of key: the extensions of a VCEK name a chip, those of a
// VLEK a provider.
func (k KeyExtensions) Kind() SigningKey {
	if k.CSPID != "" {
		return VLEK
	}
	return VCEK
}

// MatchesChip reports whether HWID is the chip of a report's CHIP_ID. On Turin the
// 8 bytes of HWID are the start of CHIP_ID, and the rest of CHIP_ID must be zero.
func (k KeyExtensions) MatchesChip(id ChipID) bool {
	var want ChipID
	if len(k.HWID) == 0 || copy(want[:], k.HWID) != len(k.HWID) {
		return false
	}
	return want == id && id != ChipID{}
}

// hwidSize returns the size in bytes of a chip's hardware ID.
func (p Product) hwidSize() int {
	if p == Turin {
		return 8
	}
	return len(ChipID{})
}

// ParseKeyExtensions reads AMD's extensions from the certificate of a VCEK or
// VLEK. It accepts exactly the set that AMD issues for the product: it refuses an
// unknown, missing, doubled or malformed extension, and a reserved security version
// that is not zero. Beside AMD's extensions, a certificate may have only the key
// identifiers of RFC 5280. ParseKeyExtensions does not verify the certificate.
func ParseKeyExtensions(cert *x509.Certificate) (KeyExtensions, error) {
	k, err := parseKeyExtensions(cert)
	if err != nil {
		return KeyExtensions{}, fmt.Errorf("parsing key extensions: %v", err)
	}
	return k, nil
}

func parseKeyExtensions(cert *x509.Certificate) (KeyExtensions, error) {
	var k KeyExtensions
	values, err := amdExtensions(cert)
	if err != nil {
		return k, err
	}
	if k.StructVersion, err = takeUint8(values, oidStructVersion, "structVersion"); err != nil {
		return k, err
	}
	if k.ProductName, err = takeIA5String(values, oidProductName, "productName"); err != nil {
		return k, err
	}
	product, err := k.Product()
	if err != nil {
		return k, err
	}
	if want := product.structVersion(); k.StructVersion != want {
		return k, fmt.Errorf("structVersion is %d, want %d for %s", k.StructVersion, want, product)
	}
	if k.TCB, err = takeTCB(values, product); err != nil {
		return k, err
	}
	if err := k.takeHolder(values, product); err != nil {
		return k, err
	}
	for arc := range values {
		return k, fmt.Errorf("extension %s.%s is unknown for %s", amdArc(), arc, product)
	}
	return k, nil
}

// structVersion returns the value of the structVersion extension in certificates of
// p.
func (p Product) structVersion() uint8 {
	if p == Turin {
		return 1
	}
	return 0
}

// amdExtensions returns AMD's extensions by the last arcs of their OIDs.
func amdExtensions(cert *x509.Certificate) (map[string][]byte, error) {
	prefix := amdArc()
	values := make(map[string][]byte) // :: arcs below the prefix -> contents
	for _, e := range cert.Extensions {
		if len(e.Id) <= len(prefix) || !e.Id[:len(prefix)].Equal(prefix) {
			if s := e.Id.String(); s == "2.5.29.14" || s == "2.5.29.35" { // subject and authority key identifier
				continue
			}
			return nil, fmt.Errorf("extension %s is not AMD's nor a key identifier", e.Id)
		}
		arc := e.Id[len(prefix):].String()
		if _, twice := values[arc]; twice {
			return nil, fmt.Errorf("extension %s occurs twice", e.Id)
		}
		values[arc] = e.Value
	}
	return values, nil
}

// takeTCB reads the security versions of product's layout.
func takeTCB(values map[string][]byte, product Product) (TCB, error) {
	var t TCB
	type field struct {
		arc, name string
		to        *uint8 // nil: reserved
	}
	fields := []field{
		{oidBootloader, "blSPL", &t.Bootloader}, {oidTEE, "teeSPL", &t.TEE}, {oidSNP, "snpSPL", &t.SNP},
		{oidMicrocode, "ucodeSPL", &t.Microcode}, {oidSPL5, "spl5", nil}, {oidSPL6, "spl6", nil}, {oidSPL7, "spl7", nil},
	}
	if product == Turin {
		fields = append(fields, field{oidFMC, "fmcSPL", &t.FMC})
	} else {
		fields = append(fields, field{oidSPL4, "spl4", nil})
	}
	for _, f := range fields {
		v, err := takeUint8(values, f.arc, f.name)
		switch {
		case err != nil:
			return TCB{}, err
		case f.to != nil:
			*f.to = v
		case v != 0:
			return TCB{}, fmt.Errorf("%s is %d, want 0: it is reserved", f.name, v)
		}
	}
	return t, nil
}

// takeHolder reads the holder of the key: a chip or a provider, never both.
func (k *KeyExtensions) takeHolder(values map[string][]byte, product Product) error {
	if csp, ok := values[oidCSPID]; ok {
		if _, both := values[oidHWID]; both {
			return fmt.Errorf("both hwID and cspID are there, want one")
		}
		var err error
		if k.CSPID, err = takeIA5String(values, oidCSPID, "cspID"); err != nil {
			return err
		}
		if k.CSPID == "" {
			return fmt.Errorf("cspID is %x, want a name", csp)
		}
		return nil
	}
	raw, ok := values[oidHWID]
	if !ok {
		return fmt.Errorf("neither hwID nor cspID is there, want one")
	}
	delete(values, oidHWID)
	size := product.hwidSize()
	switch {
	case len(raw) == size:
		k.HWID = bytes.Clone(raw)
	case len(raw) == size+2 && raw[0] == asn1.TagOctetString && int(raw[1]) == size:
		k.HWID, k.HWIDWrapped = bytes.Clone(raw[2:]), true
	default:
		return fmt.Errorf("hwID is %x, want %d bytes for %s, bare or as an OCTET STRING", raw, size, product)
	}
	return nil
}

// takeUint8 removes an extension from values and reads it as an INTEGER from 0
// to 255, in DER.
func takeUint8(values map[string][]byte, arc, name string) (uint8, error) {
	raw, ok := values[arc]
	if !ok {
		return 0, fmt.Errorf("%s (%s.%s) is missing", name, amdArc(), arc)
	}
	delete(values, arc)
	var v int
	if rest, err := asn1.Unmarshal(raw, &v); err != nil || len(rest) != 0 || v < 0 || v > 255 {
		return 0, fmt.Errorf("%s is %x, want an INTEGER from 0 to 255", name, raw)
	}
	return uint8(v), nil
}

// takeIA5String removes an extension from values and reads it as an IA5String
// of at most 127 bytes.
func takeIA5String(values map[string][]byte, arc, name string) (string, error) {
	raw, ok := values[arc]
	if !ok {
		return "", fmt.Errorf("%s (%s.%s) is missing", name, amdArc(), arc)
	}
	delete(values, arc)
	if len(raw) < 2 || raw[0] != asn1.TagIA5String || int(raw[1]) != len(raw)-2 || raw[1] > 127 {
		return "", fmt.Errorf("%s is %x, want an IA5String", name, raw)
	}
	for _, c := range raw[2:] {
		if c < 0x20 || c > 0x7e {
			return "", fmt.Errorf("%s is %q, want printable ASCII", name, raw[2:])
		}
	}
	return string(raw[2:]), nil
}

// Build returns the extensions as AMD encodes them, in AMD's order.
func (k KeyExtensions) Build() ([]pkix.Extension, error) {
	product, err := k.Product()
	if err != nil {
		return nil, fmt.Errorf("building key extensions: %v", err)
	}
	if _, err := product.EncodeTCB(k.TCB); err != nil {
		return nil, fmt.Errorf("building key extensions: %v", err)
	}
	if (k.CSPID == "") != (len(k.HWID) == product.hwidSize()) {
		return nil, fmt.Errorf("building key extensions: HWID has %d bytes and CSPID is %q, want %d bytes or a provider", len(k.HWID), k.CSPID, product.hwidSize())
	}
	if len(k.CSPID) > 127 {
		return nil, fmt.Errorf("building key extensions: CSPID has %d bytes, want at most 127", len(k.CSPID))
	}
	b := extensionBuilder{}
	b.integer(asn1.ObjectIdentifier{1}, k.StructVersion)
	b.ia5(asn1.ObjectIdentifier{2}, k.ProductName)
	if product == Turin {
		b.integer(asn1.ObjectIdentifier{3, 9}, k.TCB.FMC)
	}
	b.integer(asn1.ObjectIdentifier{3, 1}, k.TCB.Bootloader)
	b.integer(asn1.ObjectIdentifier{3, 2}, k.TCB.TEE)
	if product == Turin {
		b.integer(asn1.ObjectIdentifier{3, 3}, k.TCB.SNP)
	} else {
		b.integer(asn1.ObjectIdentifier{3, 4}, 0)
	}
	b.integer(asn1.ObjectIdentifier{3, 5}, 0)
	b.integer(asn1.ObjectIdentifier{3, 6}, 0)
	b.integer(asn1.ObjectIdentifier{3, 7}, 0)
	if product != Turin {
		b.integer(asn1.ObjectIdentifier{3, 3}, k.TCB.SNP)
	}
	b.integer(asn1.ObjectIdentifier{3, 8}, k.TCB.Microcode)
	switch {
	case k.CSPID != "":
		b.ia5(asn1.ObjectIdentifier{5}, k.CSPID)
	case k.HWIDWrapped:
		b.add(asn1.ObjectIdentifier{4}, append([]byte{asn1.TagOctetString, byte(len(k.HWID))}, k.HWID...))
	default:
		b.add(asn1.ObjectIdentifier{4}, bytes.Clone(k.HWID))
	}
	return b.list, nil
}

type extensionBuilder struct{ list []pkix.Extension }

func (b *extensionBuilder) add(arc asn1.ObjectIdentifier, value []byte) {
	b.list = append(b.list, pkix.Extension{Id: append(amdArc(), arc...), Value: value})
}

func (b *extensionBuilder) ia5(arc asn1.ObjectIdentifier, s string) {
	b.add(arc, append([]byte{asn1.TagIA5String, byte(len(s))}, s...))
}

func (b *extensionBuilder) integer(arc asn1.ObjectIdentifier, v uint8) {
	der := []byte{asn1.TagInteger, 1, v}
	if v > 127 { // a sign byte in front keeps it positive
		der = []byte{asn1.TagInteger, 2, 0, v}
	}
	b.add(arc, der)
}
