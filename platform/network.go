package platform

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"regexp"
	"strings"
)

// NetworkKind says to what the guest's network card is connected.
type NetworkKind string

const (
	// User is QEMU's own network. The guest reaches other machines through a
	// process of the host. Only a Forward lets a connection reach the guest. User
	// is the zero value.
	User NetworkKind = ""
	// Bridge is a bridge of the host. qemu-bridge-helper connects the guest to it.
	Bridge NetworkKind = "bridge"
	// Tap is a tap device that the host has made.
	Tap NetworkKind = "tap"
)

// Network is the guest's network. The host chooses all of it, and none of it is
// measured.
type Network struct {
	Kind NetworkKind
	Name string           // of the bridge or tap device
	MAC  net.HardwareAddr // of the guest's card; nil: QEMU's default, the same for every guest
}

// interfaceName matches the names that Linux accepts, except those that need
// quoting.
var interfaceName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,14}$`)

// ParseNetwork reads "user", "bridge=NAME" or "tap=NAME".
func ParseNetwork(s string) (Network, error) {
	if s == "user" {
		return Network{}, nil
	}
	kind, name, _ := strings.Cut(s, "=")
	n := Network{Kind: NetworkKind(kind), Name: name}
	if n.Kind != Bridge && n.Kind != Tap || !interfaceName.MatchString(name) {
		return Network{}, fmt.Errorf("parsing network %q: want user, bridge=NAME or tap=NAME", s)
	}
	return n, nil
}

func (n Network) check(forwards int) error {
	switch {
	case n.Kind == User && n.Name == "":
	case n.Kind != Bridge && n.Kind != Tap || !interfaceName.MatchString(n.Name):
		return fmt.Errorf("network is %q with name %q, want user, or bridge or tap with the name of an interface", n.Kind, n.Name)
	case forwards > 0:
		return errors.New("ports are forwarded from the user network only: on a bridge or tap others reach the guest by its own address")
	}
	if n.MAC != nil && (len(n.MAC) != 6 || n.MAC[0]&1 != 0) {
		return fmt.Errorf("MAC address is %v, want six bytes of one card", n.MAC)
	}
	return nil
}

// MACOf returns the MAC address of a name, always the same one. It is locally
// administered, with the prefix that QEMU uses.
func MACOf(name string) net.HardwareAddr {
	sum := sha256.Sum256([]byte("rootvouch MAC address v1\x00" + name))
	return net.HardwareAddr{0x52, 0x54, 0x00, sum[0], sum[1], sum[2]}
}
