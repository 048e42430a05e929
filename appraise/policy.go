package appraise

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"

	"github.com/rootvouch/rootvouch/refval"
	"github.com/rootvouch/rootvouch/snp"
)

// milanNote is the note of each verdict that accepts Milan.
const milanNote = "product: Milan is accepted by name: software on the host can extract the root of its VCEKs, " +
	"and forge reports of any TCB (arXiv 2605.12990)"

// bareKernelNote is the note of each verdict whose reference values accept a kernel
// with the host's ACPI tables.
const bareKernelNote = "kernel: one that is not behind the gate is accepted by name: " +
	"ACPI code of its host runs in it, and can read and change the VM"

// hostCodeNote is the note of each verdict whose reference values accept a firmware
// that may run code of its host.
const hostCodeNote = "firmware: one that may run code of its host before the kernel is accepted by name: " +
	"its measurement does not vouch for what runs"

// unmeasuredKernelNote is the note of each verdict whose reference values accept a
// measurement without a kernel.
const unmeasuredKernelNote = "kernel: a measurement that covers no kernel is accepted by name: " +
	"any kernel on that firmware has it, so that the host chooses what runs"

// compromisedChips returns the SHA-256 of the CHIP_IDs whose VCEKs were published
// together with their private keys. Every verdict refuses these chips, whatever the
// reference values say.
func compromisedChips() []string {
	return []string{
		"8a22601e17a52c662bb4c21b1c903f531373b3cf94534f92b4cd66ac5c0a2965", // a Milan; its VCEKs of several TCBs are public
	}
}

// checkPolicy compares every field of the report with the reference values, except
// those that checkProduct compares.
func (v *Verdict) checkPolicy(want refval.Values, bits []refval.BitCheck) {
	v.checkDenied(want)
	v.checkMeasurement(want)
	v.checkBits(bits, want.GuestPolicy.MinimumABI)
	v.checkIdentity(want)
}

// checkProduct checks product, TCBs and kind of key. If ok is true, product is the
// accepted product of the report.
func (v *Verdict) checkProduct(want refval.Values, product refval.Product, ok bool) {
	r := v.Report
	var names []string
	for _, p := range want.Products {
		names = append(names, string(p.Name))
	}
	v.group = Hardware
	v.addPolicy("product accepted", ok, orNone(string(v.Product)), strings.Join(names, " or "))
	if slices.Contains(names, string(snp.Milan)) {
		v.addNote(milanNote)
	}
	v.group = Platform
	min, bounded := product.MinimumTCB.Value()
	switch {
	case !ok:
		v.addPolicy("minimum TCB", false, orNone(string(v.Product)), "a product that is accepted")
	case !bounded:
		v.addPolicy("minimum TCB", true, fmt.Sprint(v.TCB), "any")
		v.addNote("minimum TCB: any is accepted on %s: firmware with known flaws passes", v.Product)
	case v.tcbs == nil:
		v.addPolicy("minimum TCB", false, "TCBs that cannot be decoded", fmt.Sprint(min)+" or newer")
	default:
		v.checkMinimumTCB("reported TCB", v.tcbs.Reported, min)
		v.checkMinimumTCB("committed TCB", v.tcbs.Committed, min)
		v.checkMinimumTCB("current TCB", v.tcbs.Current, min)
		v.checkMinimumTCB("launch TCB", v.tcbs.Launch, min) // the firmware that measured the guest
	}
	v.group = Hardware
	v.addPolicy("signing key", slices.Contains(want.SigningKeys, r.SigningKey), r.SigningKey.String(), join(want.SigningKeys))
}

func (v *Verdict) checkMinimumTCB(name string, got, min snp.TCB) {
	v.addPolicy(name, got.AtLeast(min), got.String(), min.String()+" or newer")
}

func (v *Verdict) checkDenied(want refval.Values) {
	r := v.Report
	v.group = Hardware
	sum := sha256.Sum256(r.ChipID[:])
	denied := slices.Contains(want.Deny.ChipIDs, r.ChipID)
	v.addPolicy("chip not denied", !denied, r.ChipID.String(), fmt.Sprintf("none of %d denied chips", len(want.Deny.ChipIDs)))
	compromised := slices.Contains(compromisedChips(), fmt.Sprintf("%x", sum))
	v.addPolicy("chip not compromised", !compromised, r.ChipID.String(), "none whose keys are public")
	if r.ChipID == (snp.ChipID{}) {
		// The report is signed by a VLEK, and its host may hide the CHIP_ID.
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
	v.group = Guest
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

// checkBits adds the checks of POLICY and PLATFORM_INFO.
func (v *Verdict) checkBits(bits []refval.BitCheck, minimum refval.Want[refval.ABI]) {
	for _, b := range bits {
		if v.group = Guest; b.Host {
			v.group = Platform
		}
		v.addPolicy(b.Name, b.OK, bit(b.Set), string(b.Want))
	}
	v.group = Guest
	major, minor := v.Report.Policy.ABI()
	abi := refval.ABI{Major: major, Minor: minor}
	atLeast(v, "guest policy ABI", minimum, abi, abi.AtLeast)
}

func (v *Verdict) checkIdentity(want refval.Values) {
	r := v.Report
	if _, exact := want.VMPL.Value(); exact {
		equal(v, "VMPL", want.VMPL, r.VMPL)
	} else { // refuses a report that the host asked for
		v.addPolicy("VMPL", r.VMPL <= 3, fmt.Sprint(r.VMPL), "any of 0 to 3")
	}
	atLeast(v, "guest SVN", want.MinimumGuestSVN, r.GuestSVN, func(min uint32) bool { return r.GuestSVN >= min })
	oneOf(v, "ID key digest", want.IDKeyDigests, r.IDKeyDigest)
	oneOf(v, "author key digest", want.AuthorKeyDigests, r.AuthorKeyDigest)
	equal(v, "family ID", want.FamilyID, r.FamilyID)
	equal(v, "image ID", want.ImageID, r.ImageID)
	equal(v, "HOST_DATA", want.HostData, r.HostData)
}

// equal checks that got is the wanted value.
func equal[T comparable](v *Verdict, name string, want refval.Want[T], got T) {
	value, exact := want.Value()
	if !exact {
		v.addPolicy(name, true, fmt.Sprint(got), "any")
		return
	}
	v.addPolicy(name, got == value, fmt.Sprint(got), fmt.Sprint(value))
}

// oneOf checks that got is in the wanted list.
func oneOf[T comparable](v *Verdict, name string, want refval.Want[[]T], got T) {
	list, exact := want.Value()
	if !exact {
		v.addPolicy(name, true, fmt.Sprint(got), "any")
		return
	}
	v.addPolicy(name, slices.Contains(list, got), fmt.Sprint(got), join(list))
}

// atLeast checks that got is at least the wanted value.
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

func bit(set bool) string {
	if set {
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
