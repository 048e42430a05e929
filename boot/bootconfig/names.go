package bootconfig

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

const spiffeScheme = "spiffe://"

// Limits of SPIFFE-ID (SPIFFE standards, "The SPIFFE Identity and Verifiable
// Identity Document", sections 2.1 and 2.3), in bytes.
const (
	maxTrustDomain = 255
	maxSPIFFEID    = 2048
)

// Limits of a DNS name (RFC 1035, section 2.3.4), in bytes, without the final dot.
const (
	maxDNSName  = 253
	maxDNSLabel = 63
)

// CheckTrustDomain checks the name of a SPIFFE trust domain: lower-case letters,
// digits, dots, hyphens and underscores (SPIFFE-ID, section 2.1).
func CheckTrustDomain(s string) error {
	if s == "" || len(s) > maxTrustDomain {
		return fmt.Errorf("trust domain is %d bytes, want 1 to %d", len(s), maxTrustDomain)
	}
	for i := range len(s) {
		if c := s[i]; !lower(c) && !digit(c) && c != '.' && c != '-' && c != '_' {
			return fmt.Errorf("trust domain %q has %q at offset %d, want a to z, 0 to 9, '.', '-' or '_'", s, c, i)
		}
	}
	return nil
}

// CheckSPIFFEID checks the SPIFFE ID of a workload in trustDomain: a path of at
// least one segment, segments of letters, digits, dots, hyphens and underscores,
// none of them empty, "." or ".." (SPIFFE-ID, section 2.2).
func CheckSPIFFEID(s, trustDomain string) error {
	if len(s) > maxSPIFFEID {
		return fmt.Errorf("SPIFFE ID is %d bytes, want at most %d", len(s), maxSPIFFEID)
	}
	rest, ok := strings.CutPrefix(s, spiffeScheme)
	if !ok {
		return fmt.Errorf("SPIFFE ID is %q, want the scheme %q", s, spiffeScheme)
	}
	domain, path, ok := strings.Cut(rest, "/")
	if err := CheckTrustDomain(domain); err != nil {
		return err
	}
	if domain != trustDomain {
		return fmt.Errorf("SPIFFE ID %q is of trust domain %q, want %q", s, domain, trustDomain)
	}
	if !ok {
		return fmt.Errorf("SPIFFE ID is %q, want a path after the trust domain", s)
	}
	for segment := range strings.SplitSeq(path, "/") {
		if segment == "" || segment == "." || segment == ".." {
			return fmt.Errorf("SPIFFE ID %q has the path segment %q, want no empty or relative one", s, segment)
		}
		for i := range len(segment) {
			if c := segment[i]; !letter(c) && !digit(c) && c != '.' && c != '-' && c != '_' {
				return fmt.Errorf("SPIFFE ID %q has %q in its path, want letters, digits, '.', '-' or '_'", s, c)
			}
		}
	}
	return nil
}

// CheckAddress checks "host:port" against the grammar that Config.Check gives.
func CheckAddress(s string) error {
	_, _, err := SplitAddress(s)
	return err
}

// SplitAddress checks "host:port" and returns its parts: the host without
// brackets, and the port.
func SplitAddress(s string) (host string, port uint16, err error) {
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return "", 0, fmt.Errorf(`address is %q, want "host:port"`, s)
	}
	host = s[:i]
	n, err := strconv.ParseUint(s[i+1:], 10, 16)
	if err != nil || n == 0 || strconv.FormatUint(n, 10) != s[i+1:] {
		return "", 0, fmt.Errorf("port is %q, want 1 to 65535 in decimal", s[i+1:])
	}
	if inner, ok := strings.CutPrefix(host, "["); ok {
		inner, ok = strings.CutSuffix(inner, "]")
		a, err := netip.ParseAddr(inner)
		if !ok || err != nil || !a.Is6() || a.Is4In6() || a.Zone() != "" || a.String() != inner {
			return "", 0, fmt.Errorf("host is %q, want an IPv6 address in RFC 5952 form inside the brackets", host)
		}
		return inner, uint16(n), nil
	}
	if a, err := netip.ParseAddr(host); err == nil && a.Is4() {
		return host, uint16(n), nil
	}
	if err := checkDNSName(host); err != nil {
		return "", 0, err
	}
	return host, uint16(n), nil
}

// checkDNSName takes host names of RFC 1123, section 2.1. A last label that is a
// number is refused: resolvers disagree whether "10.1" or "0x7f.1" is an address.
func checkDNSName(s string) error {
	if s == "" || len(s) > maxDNSName {
		return fmt.Errorf("host is %d bytes, want 1 to %d", len(s), maxDNSName)
	}
	label := ""
	for label = range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > maxDNSLabel {
			return fmt.Errorf("host %q has a label of %d bytes, want 1 to %d", s, len(label), maxDNSLabel)
		}
		if label[0] == '-' || label[len(label)-1] == '-' {
			return fmt.Errorf("host %q has the label %q, want no hyphen at its ends", s, label)
		}
		for i := range len(label) {
			if c := label[i]; !letter(c) && !digit(c) && c != '-' {
				return fmt.Errorf("host %q has %q, want letters, digits, '-' and '.'", s, c)
			}
		}
	}
	if digit(label[0]) {
		return fmt.Errorf("host %q is no IPv4 address, and its last label begins with a digit", s)
	}
	return nil
}

// checkNoLookup refuses an address that needs a name server.
func checkNoLookup(address string) error {
	host, _, err := SplitAddress(address)
	if err != nil {
		return nil // reported already
	}
	if _, err := netip.ParseAddr(host); err != nil {
		return errors.New("host is a name, and the static network has no nameservers")
	}
	return nil
}

func lower(c byte) bool  { return 'a' <= c && c <= 'z' }
func letter(c byte) bool { return lower(c) || 'A' <= c && c <= 'Z' }
func digit(c byte) bool  { return '0' <= c && c <= '9' }
