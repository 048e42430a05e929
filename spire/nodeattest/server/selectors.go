package server

import (
	"crypto/sha512"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"slices"
	"strings"

	"github.com/rootvouch/rootvouch/refval"
	"github.com/rootvouch/rootvouch/snp"
)

// selectors returns the values of the agent's selectors. The evidence must be trusted.
func (j judgement) selectors() ([]string, error) {
	return allSelectors(j.verdict.Report, j.verdict.Product, j.values.RootOfTrust, signingKeyHash(j.verdict.Signer))
}

// allSelectors returns the list that docs/spire.md explains. The selectors of the public
// attestor of this name have the same names and values here. Byte strings are lower-case hex,
// in full.
func allSelectors(r *snp.Report, product snp.Product, root refval.RootOfTrust, keyHash [sha512.Size]byte) ([]string, error) {
	var s selectorList
	s.add("measurement", r.Measurement)
	s.add("guest_svn", r.GuestSVN)
	s.policy(r.Policy)
	s.add("family_id", r.FamilyID)
	s.add("image_id", r.ImageID)
	s.add("vmpl", r.VMPL)
	s.add("signature_algo", r.SignatureAlgo)
	for _, tcb := range []struct {
		name    string
		version snp.TCBVersion
	}{
		{"current_tcb", r.CurrentTCB}, {"reported_tcb", r.ReportedTCB},
		{"committed_tcb", r.CommittedTCB}, {"launch_tcb", r.LaunchTCB},
	} {
		if err := s.tcb(tcb.name, product, tcb.version); err != nil {
			return nil, err
		}
	}
	s.add("platform_info:smt_en", r.PlatformInfo.Has(snp.PlatformSMT))
	s.add("platform_info:tsme_en", r.PlatformInfo.Has(snp.PlatformTSME))
	s.add("platform_info:ecc_en", r.PlatformInfo.Has(snp.PlatformECC))
	s.add("platform_info:rapl_dis", r.PlatformInfo.Has(snp.PlatformRAPLDisabled))
	s.add("platform_info:ciphertext_hiding_en", r.PlatformInfo.Has(snp.PlatformCiphertextHiding))
	s.add("platform_info:alias_check_complete", r.PlatformInfo.Has(snp.PlatformAliasCheckDone))
	s.add("platform_info:iommu_write_safe", r.PlatformInfo.Has(snp.PlatformIOMMUWriteSafe))
	s.add("platform_info:tio", r.PlatformInfo.Has(snp.PlatformTIO))
	s.add("signing_key", uint8(r.SigningKey))
	s.add("mask_chip_key", r.MaskChipKey)
	s.add("author_key_en", r.AuthorKeyEnabled)
	s.add("host_data", r.HostData)
	s.add("id_key_digest", r.IDKeyDigest)
	s.add("author_key_digest", r.AuthorKeyDigest)
	s.add("report_id", r.ReportID)
	s.add("report_id_ma", r.ReportIDMA)
	s.add("chip_id", r.ChipID)
	s.firmware("current", r.Current)
	s.firmware("committed", r.Committed)
	s.add("signing_key_hash", fmt.Sprintf("%x", keyHash))
	s.add("product", product)
	if ark, emulated := root.Emulated(); emulated {
		s.add("root_of_trust:emulated", ark)
	} else {
		s = append(s, "root_of_trust:amd")
	}
	return s, nil
}

// checkSelectorNames refuses an unknown name: because of a misspelt one an entry would lack the
// selector that it needs.
func checkSelectorNames(names []string) error {
	known, err := allSelectors(&snp.Report{}, snp.Turin, refval.AMD(), [sha512.Size]byte{})
	if err != nil {
		panic("server: internal error: " + err.Error())
	}
	for _, name := range names {
		if len(pick(known, []string{name})) == 0 {
			return fmt.Errorf("selectors has %q, want names of selectors or of groups", name)
		}
	}
	return nil
}

// pick returns the selectors with those names, or all if names is empty. The name of a group,
// such as policy, includes all its selectors.
func pick(all, names []string) []string {
	if len(names) == 0 {
		return all
	}
	return slices.DeleteFunc(slices.Clone(all), func(s string) bool {
		return !slices.ContainsFunc(names, func(name string) bool { return strings.HasPrefix(s, name+":") })
	})
}

type selectorList []string

func (s *selectorList) add(name string, value any) {
	*s = append(*s, fmt.Sprintf("%s:%v", name, value))
}

func (s *selectorList) policy(p snp.Policy) {
	major, minor := p.ABI()
	s.add("policy:abi_major", major)
	s.add("policy:abi_minor", minor)
	s.add("policy:smt", p.Has(snp.PolicySMT))
	s.add("policy:migrate_ma", p.Has(snp.PolicyMigrationAgent))
	s.add("policy:debug", p.Has(snp.PolicyDebug))
	s.add("policy:single_socket", p.Has(snp.PolicySingleSocket))
	s.add("policy:cxl", p.Has(snp.PolicyCXL))
	s.add("policy:mem_aes_256_xts", p.Has(snp.PolicyMemAES256XTS))
	s.add("policy:rapl_disabled", p.Has(snp.PolicyRAPLDisabled))
	s.add("policy:ciphertext_hiding", p.Has(snp.PolicyCiphertextHiding))
	s.add("policy:page_swap_disabled", p.Has(snp.PolicyPageSwapDisabled))
}

func (s *selectorList) tcb(name string, product snp.Product, version snp.TCBVersion) error {
	t, err := product.DecodeTCB(version)
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	s.add(name+":boot_loader", t.Bootloader)
	s.add(name+":tee", t.TEE)
	s.add(name+":snp", t.SNP)
	s.add(name+":microcode", t.Microcode)
	if product == snp.Turin {
		s.add(name+":fmc", t.FMC)
	}
	return nil
}

func (s *selectorList) firmware(name string, f snp.Firmware) {
	s.add(name+"_build", f.Build)
	s.add(name+"_minor", f.Minor)
	s.add(name+"_major", f.Major)
}

// signingKeyHash is the public attestor's signing_key_hash for a certificate from the host:
// SHA-512 over its PEM form.
func signingKeyHash(leaf *x509.Certificate) [sha512.Size]byte {
	return sha512.Sum512(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: leaf.Raw}))
}
