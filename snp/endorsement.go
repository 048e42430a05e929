package snp

import "fmt"

// TCBs are the four TCBs of a report, in the layout of its product.
type TCBs struct{ Reported, Committed, Current, Launch TCB }

// TCBs decodes the report's TCBs in the layout of product p, and refuses
// reserved bytes that are not zero.
func (r *Report) TCBs(p Product) (TCBs, error) {
	var t TCBs
	to := []*TCB{&t.Current, &t.Reported, &t.Committed, &t.Launch} // in the order of tcbs
	for i, from := range r.tcbs() {
		var err error
		if *to[i], err = p.DecodeTCB(from.v); err != nil {
			return TCBs{}, fmt.Errorf("%s: %v", from.name, err)
		}
	}
	return t, nil
}

// Endorsement is the comparison of an endorsement key's certificate with a report.
// Each error is nil if the two agree.
type Endorsement struct {
	// Product is the product of both; empty if ProductErr is not nil.
	Product Product
	// TCBs are the report's TCBs, in the layout of Product. It is nil if there is
	// no product, or if the TCBs cannot be decoded.
	TCBs *TCBs

	KeyErr     error // SIGNING_KEY is another kind than the certificate's
	ProductErr error // CPUID names another product than the certificate
	TCBErr     error // REPORTED_TCB is not the certificate's TCB
	ChipErr    error // CHIP_ID is not the certificate's chip
}

// OK reports whether certificate and report agree on everything.
func (e Endorsement) OK() bool {
	return e.KeyErr == nil && e.ProductErr == nil && e.TCBErr == nil && e.ChipErr == nil
}

// Endorse compares a certificate's extensions with a report. It verifies no
// signature.
func (k KeyExtensions) Endorse(r *Report) Endorsement {
	var e Endorsement
	if k.Kind() != r.SigningKey {
		e.KeyErr = fmt.Errorf("certificate is of a %s, want a %s: the report's SIGNING_KEY", k.Kind(), r.SigningKey)
	}
	if k.Kind() == VCEK && !k.MatchesChip(r.ChipID) {
		e.ChipErr = fmt.Errorf("CHIP_ID is %s, want %x: the certificate's chip", r.ChipID, k.HWID)
	}
	if e.Product, e.ProductErr = k.agreedProduct(r); e.ProductErr != nil {
		return e
	}
	tcbs, err := r.TCBs(e.Product)
	if err != nil {
		e.TCBErr = err
		return e
	}
	e.TCBs = &tcbs
	if tcbs.Reported != k.TCB {
		e.TCBErr = fmt.Errorf("REPORTED_TCB is %s, want %s: the certificate's TCB", tcbs.Reported, k.TCB)
	}
	return e
}

// agreedProduct returns the product that the certificate names, or an error if the
// report names another. A version 2 report names no product.
func (k KeyExtensions) agreedProduct(r *Report) (Product, error) {
	product, err := k.Product()
	if err != nil {
		return "", err
	}
	if r.Version < 3 {
		return product, nil
	}
	named, err := r.Product()
	if err != nil {
		return "", err
	}
	if named != product {
		return "", fmt.Errorf("report is of %s (CPUID %s), certificate of %s", named, r.CPUID, product)
	}
	return product, nil
}
