package refval

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/rootvouch/rootvouch/snp"
)

// ParseProduct reads an accepted product as a command line gives it: its name,
// "=", and its minimum TCB, which is "any" or every version by name, as in
// "Genoa=bootloader:10,tee:0,snp:26,microcode:84". Turin has "fmc" too. No
// version has a default, and none can be taken for another.
func ParseProduct(s string) (Product, error) {
	name, minimum, ok := strings.Cut(s, "=")
	if !ok {
		return Product{}, fmt.Errorf("parsing product %q: minimum TCB is missing, want %s=any or %s=%s", s, s, s, tcbForm(snp.Product(s)))
	}
	p := Product{Name: snp.Product(name)}
	if !p.Name.Known() {
		return Product{}, fmt.Errorf("parsing product %q: name is %q, want one of %q", s, name, snp.Products())
	}
	if minimum == "any" {
		p.MinimumTCB = Any[snp.TCB]()
		return p, nil
	}
	tcb, err := parseTCB(p.Name, minimum)
	if err != nil {
		return Product{}, fmt.Errorf("parsing product %q: minimum TCB: %w", s, err)
	}
	p.MinimumTCB = Exactly(tcb)
	return p, nil
}

// tcbParts returns the names of what a TCB of product p has.
func tcbParts(p snp.Product) []string {
	parts := []string{"bootloader", "tee", "snp", "microcode"}
	if p == snp.Turin {
		parts = append([]string{"fmc"}, parts...)
	}
	return parts
}

// tcbForm shows how a minimum TCB of product p is written.
func tcbForm(p snp.Product) string { return strings.Join(tcbParts(p), ":N,") + ":N" }

func parseTCB(p snp.Product, text string) (snp.TCB, error) {
	got := make(map[string]uint8) // :: part -> version
	known := tcbParts(p)
	for part := range strings.SplitSeq(text, ",") {
		name, version, _ := strings.Cut(part, ":")
		n, err := strconv.ParseUint(version, 10, 8)
		if err != nil || strconv.FormatUint(n, 10) != version {
			return snp.TCB{}, fmt.Errorf("got %q, want NAME:N with N from 0 to 255", part)
		}
		if _, twice := got[name]; twice {
			return snp.TCB{}, fmt.Errorf("%s occurs twice", name)
		}
		got[name] = uint8(n)
	}
	for _, name := range known {
		if _, ok := got[name]; !ok {
			return snp.TCB{}, fmt.Errorf("%s is missing, want any or %s", name, tcbForm(p))
		}
	}
	if len(got) != len(known) {
		return snp.TCB{}, fmt.Errorf("got %q, want no more than %s on %s", text, tcbForm(p), p)
	}
	return snp.TCB{FMC: got["fmc"], Bootloader: got["bootloader"], TEE: got["tee"], SNP: got["snp"], Microcode: got["microcode"]}, nil
}
