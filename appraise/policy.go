package appraise

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"

	"github.com/rootvouch/rootvouch/refval"
	"github.com/rootvouch/rootvouch/snp"
)

// milanNote is what a verdict that accepts Milan must say.
const milanNote = "product: Milan is accepted by name: software on the host can extract the root of its VCEKs, " +
	"and forge reports of any TCB (arXiv 2605.12990)"

// compromisedChips returns the SHA-256 of the CHIP_IDs whose VCEKs have been
// published together with their private keys. They are refused whatever the
// reference values say.
func compromisedChips() []string {
	return []string{
		"8a22601e17a52c662bb4c21b1c903f531373b3cf94534f92b4cd66ac5c0a2965", // a Milan; its VCEKs of several TCBs are public
	}
}

// checkPolicy compares the report with the reference values, field by field,
// to the end.
func (v *Verdict) checkPolicy(want refval.Values) {
	if root, emulated := want.RootOfTrust.Emulated(); emulated {
		v.addNote("emulated: NOT CONFIDENTIAL: the root of trust is the emulated ARK %s", root)
	}
	v.checkProduct(want)
	v.checkDenied(want)
	v.checkMeasurement(want)
	v.checkBits(want)
	v.checkIdentity(want)
}

func (v *Verdict) checkProduct(want refval.Values) {
	r := v.Report
	var names []string
	for _, p := range want.Products {
		names = append(names, string(p.Name))
	}
	product, ok := want.Accepts(v.Product)
	v.addPolicy("product accepted", ok, orNone(string(v.Product)), strings.Join(names, " or "))
	if _, milan := want.Accepts(snp.Milan); milan {
		v.addNote(milanNote)
	}
	min, bounded := product.MinimumTCB.Value()
	switch {
	case !ok:
		v.addPolicy("minimum TCB", false, orNone(string(v.Product)), "a product that is accepted")
	case !bounded:
		v.addPolicy("minimum TCB", true, v.TCB.String(), "any")
		v.addNote("minimum TCB: any is accepted on %s: firmware with known flaws passes", v.Product)
	default:
		v.checkMinimumTCB("reported TCB", r.ReportedTCB, min)
		v.checkMinimumTCB("committed TCB", r.CommittedTCB, min)
		v.checkMinimumTCB("current TCB", r.CurrentTCB, min)
		v.checkMinimumTCB("launch TCB", r.LaunchTCB, min) // the firmware that measured the guest
	}
	v.addPolicy("signing key", slices.Contains(want.SigningKeys, r.SigningKey), r.SigningKey.String(), join(want.SigningKeys))
}

func (v *Verdict) checkMinimumTCB(name string, got snp.TCBVersion, min snp.TCB) {
	tcb, err := v.Product.DecodeTCB(got)
	if err != nil {
		v.addPolicy(name, false, err.Error(), min.String()+" or newer")
		return
	}
	v.addPolicy(name, tcb.AtLeast(min), tcb.String(), min.String()+" or newer")
}

func (v *Verdict) checkDenied(want refval.Values) {
	r := v.Report
	sum := sha256.Sum256(r.ChipID[:])
	denied := slices.Contains(want.Deny.ChipIDs, r.ChipID) || slices.Contains(compromisedChips(), fmt.Sprintf("%x", sum))
	v.addPolicy("chip not denied", !denied, r.ChipID.String(), fmt.Sprintf("none of %d denied chips", len(want.Deny.ChipIDs)+len(compromisedChips())))
	if r.ChipID == (snp.ChipID{}) {
		// By a VLEK, whose host may hide which chip it is.
		if len(want.Deny.ChipIDs) > 0 {
			v.addPolicy("chip known", false, "CHIP_ID is masked", fmt.Sprintf("one that can be held against %d denied chips", len(want.Deny.ChipIDs)))
		} else {
			v.addNote("chip: CHIP_ID is masked, so that no list of chips says anything of it")
		}
	}
	v.addPolicy("key not denied", !slices.Contains(want.Deny.Keys, v.Key), v.Key.String(), fmt.Sprintf("none of %d denied keys", len(want.Deny.Keys)))
	oneOf(v, "chip", want.Chips, r.ChipID)
}

func (v *Verdict) checkMeasurement(want refval.Values) {
	got := v.Report.Measurement
	var digests []string
	for _, m := range want.Measurements {
		if m.Digest == got {
			v.addPolicy("measurement", true, got.String(), fmt.Sprintf("%s: %d vCPUs of %s", m.Digest, m.VCPUs, m.CPUType))
			return
		}
		digests = append(digests, m.Digest.String())
	}
	const most = 4
	if n := len(digests); n > most {
		digests = append(digests[:most:most], fmt.Sprintf("%d more", n-most))
	}
	v.addPolicy("measurement", false, got.String(), strings.Join(digests, " or "))
}

// checkBits checks the bits of POLICY and PLATFORM_INFO. Debugging and
// migration always have their line, others when something is wanted of them.
func (v *Verdict) checkBits(want refval.Values) {
	policy := v.Report.Policy
	for _, n := range snp.PolicyBits() {
		bit := want.GuestPolicy.Bit(n.Bit)
		if bit == refval.AnyBit && n.Bit != snp.PolicyDebug && n.Bit != snp.PolicyMigrationAgent {
			continue
		}
		v.addPolicy("guest policy "+n.Name, bit.Allows(policy.Has(n.Bit)), set(policy.Has(n.Bit)), string(bit))
	}
	major, minor := policy.ABI()
	abi := refval.ABI{Major: major, Minor: minor}
	atLeast(v, "guest policy ABI", want.GuestPolicy.MinimumABI, abi, abi.AtLeast)
	info := v.Report.PlatformInfo
	for _, n := range snp.PlatformBits() {
		if bit := want.PlatformInfo.Bit(n.Bit); bit != refval.AnyBit {
			v.addPolicy("platform info "+n.Name, bit.Allows(info.Has(n.Bit)), set(info.Has(n.Bit)), string(bit))
		}
	}
}

func (v *Verdict) checkIdentity(want refval.Values) {
	r := v.Report
	if _, exact := want.VMPL.Value(); exact {
		equal(v, "VMPL", want.VMPL, r.VMPL)
	} else { // never a report that the host asked for
		v.addPolicy("VMPL", r.VMPL <= 3, fmt.Sprint(r.VMPL), "any of 0 to 3")
	}
	atLeast(v, "guest SVN", want.MinimumGuestSVN, r.GuestSVN, func(min uint32) bool { return r.GuestSVN >= min })
	oneOf(v, "ID key digest", want.IDKeyDigests, r.IDKeyDigest)
	oneOf(v, "author key digest", want.AuthorKeyDigests, r.AuthorKeyDigest)
	equal(v, "family ID", want.FamilyID, r.FamilyID)
	equal(v, "image ID", want.ImageID, r.ImageID)
	equal(v, "HOST_DATA", want.HostData, r.HostData)
}

// equal checks that got is what is wanted.
func equal[T comparable](v *Verdict, name string, want refval.Want[T], got T) {
	value, exact := want.Value()
	if !exact {
		v.addPolicy(name, true, fmt.Sprint(got), "any")
		return
	}
	v.addPolicy(name, got == value, fmt.Sprint(got), fmt.Sprint(value))
}

// oneOf checks that got is in the list that is wanted.
func oneOf[T comparable](v *Verdict, name string, want refval.Want[[]T], got T) {
	list, exact := want.Value()
	if !exact {
		v.addPolicy(name, true, fmt.Sprint(got), "any")
		return
	}
	v.addPolicy(name, slices.Contains(list, got), fmt.Sprint(got), join(list))
}

// atLeast checks that got is not below what is wanted.
func atLeast[T any](v *Verdict, name string, want refval.Want[T], got T, reaches func(T) bool) {
	min, bounded := want.Value()
	if !bounded {
		v.addPolicy(name, true, fmt.Sprint(got), "any")
		return
	}
	v.addPolicy(name, reaches(min), fmt.Sprint(got), fmt.Sprint(min)+" or newer")
}

func join[T any](list []T) string {
	var words []string
	for _, x := range list {
		words = append(words, fmt.Sprint(x))
	}
	return strings.Join(words, " or ")
}

func set(b bool) string {
	if b {
		return "1"
	}
	return "0"
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}
