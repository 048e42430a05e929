package snp

import "fmt"

// Product is a line of EPYC processors that shares one AMD root key (ARK), by
// the name that AMD's key distribution service uses (57230, section 2).
type Product string

// The products whose reports and certificates this package understands.
const (
	// Milan is the third generation (Zen 3).
	Milan Product = "Milan"
	// Genoa is the fourth generation (Zen 4), Bergamo and Siena (Zen 4c) included.
	Genoa Product = "Genoa"
	// Turin is the fifth generation (Zen 5), Turin Dense included.
	Turin Product = "Turin"
)

// Products returns every known product, oldest first.
func Products() []Product { return []Product{Milan, Genoa, Turin} }

// Known reports whether p is one of the products of this package.
func (p Product) Known() bool {
	switch p {
	case Milan, Genoa, Turin:
		return true
	}
	return false
}

// ParseProduct returns the product with exactly the name s.
func ParseProduct(s string) (Product, error) {
	if p := Product(s); p.Known() {
		return p, nil
	}
	return "", fmt.Errorf("parsing product: got %q, want one of %q", s, Products())
}

// ParseProductName returns the product of the productName extension of an
// endorsement key's certificate (57230, section 3): the product's name, alone
// ("Genoa") or with a stepping ("Milan-B0").
func ParseProductName(name string) (Product, error) {
	line := name
	if n := len(name); n > 3 && name[n-3] == '-' &&
		name[n-2] >= 'A' && name[n-2] <= 'Z' && name[n-1] >= '0' && name[n-1] <= '9' {
		line = name[:n-3]
	}
	p, err := ParseProduct(line)
	if err != nil {
		return "", fmt.Errorf("parsing productName: got %q, want one of %q, with or without a stepping such as -B1", name, Products())
	}
	return p, nil
}

// CPUID identifies a processor as CPUID leaf 1 does: the combined (extended
// plus base) family and model, and the stepping.
type CPUID struct {
	Family   uint8 `json:"family"`
	Model    uint8 `json:"model"`
	Stepping uint8 `json:"stepping"`
}

// String returns family, model, stepping in hex, as "19/11/1".
func (c CPUID) String() string { return fmt.Sprintf("%02x/%02x/%x", c.Family, c.Model, c.Stepping) }

// Product returns the product that c belongs to.
//
// Models by AMD's Processor Programming References: family 0x19 has 0x00-0x0f
// Milan, 0x10-0x1f Genoa, 0xa0-0xaf Bergamo and Siena; family 0x1a has
// 0x00-0x1f Turin and Turin Dense.
func (c CPUID) Product() (Product, error) {
	switch {
	case c.Family == 0x19 && c.Model <= 0x0f:
		return Milan, nil
	case c.Family == 0x19 && c.Model >= 0x10 && c.Model <= 0x1f:
		return Genoa, nil
	case c.Family == 0x19 && c.Model >= 0xa0 && c.Model <= 0xaf:
		return Genoa, nil
	case c.Family == 0x1a && c.Model <= 0x1f:
		return Turin, nil
	}
	if c.Family == 0x1a && (c.Model >= 0x50 && c.Model <= 0x57 || c.Model >= 0x90 && c.Model <= 0xaf || c.Model >= 0xc0 && c.Model <= 0xc7) {
		// Its TCB_VERSION has no versions of boot loader and microcode (virtee/sev,
		// pull request 396, after 56860, section 2.3). The layout of the other
		// versions, and the ARK that signs, are not known.
		return "", fmt.Errorf("naming product: CPUID family/model/stepping is %s, a Venice, whose TCB_VERSION and root key this version does not know", c)
	}
	return "", fmt.Errorf("naming product: CPUID family/model/stepping is %s, want one of Milan, Genoa, Turin", c)
}

// Example returns a CPUID of product p, for software that imitates the product. The
// zero CPUID means that p is unknown.
func (p Product) Example() CPUID {
	switch p {
	case Milan:
		return CPUID{Family: 0x19, Model: 0x01, Stepping: 1}
	case Genoa:
		return CPUID{Family: 0x19, Model: 0x11, Stepping: 1}
	case Turin:
		return CPUID{Family: 0x1a, Model: 0x02, Stepping: 1}
	}
	return CPUID{}
}
