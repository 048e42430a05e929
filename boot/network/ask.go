package network

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/vishvananda/netlink"

	"github.com/rootvouch/rootvouch/boot/wait"
)

// pace is the time to wait for one answer: first, then twice as long each time, up
// to most (RFC 2131, section 4.1, with shorter times, since no other machine boots
// on this link). The tries end only with the step's bound: a bridge that runs the
// spanning tree protocol is silent for 30 s, and a server that starts may need as
// long.
type pace struct{ first, most time.Duration }

var dhcpPace = pace{first: 500 * time.Millisecond, most: 4 * time.Second}

// rescan is the time between two looks for new interfaces.
const rescan = time.Second

// leaseFromAny asks on all interfaces side by side, also on those that appear
// later, and returns the first lease. It sets the other interfaces down again.
func leaseFromAny(ctx context.Context, p pace, find func() ([]netlink.Link, error)) (Network, error) {
	asking, stop := context.WithCancel(ctx)
	defer stop()
	type answer struct {
		link netlink.Link
		n    Network
		err  error
	}
	answers := make(chan answer)
	asked := map[int]netlink.Link{} // :: index -> interface
	last := errors.New("waiting for a network interface: got none")
	running := 0
	var got *Network
	ticker := time.NewTicker(rescan)
	defer ticker.Stop()
	for got == nil && ctx.Err() == nil {
		links, err := find()
		if err != nil {
			last = err
		}
		for _, link := range links {
			if asked[link.Attrs().Index] == nil {
				asked[link.Attrs().Index] = link
				running++
				go func() {
					n, err := ask(asking, p, link)
					answers <- answer{link, n, err}
				}()
			}
		}
		select {
		case a := <-answers:
			running--
			if a.err == nil {
				got = &a.n
				continue
			}
			// The interface failed, not the server. If the interface is found
			// again, it is asked again.
			last = fmt.Errorf("asking for a DHCP lease on %s: %w", a.link.Attrs().Name, a.err)
			delete(asked, a.link.Attrs().Index)
			_ = wait.For(ctx, p.first) // the loop asks whether ctx has ended
		case <-ticker.C:
		case <-ctx.Done():
		}
	}
	stop()
	for ; running > 0; running-- {
		if a := <-answers; a.err != nil && got == nil {
			last = fmt.Errorf("asking for a DHCP lease on %s: %w", a.link.Attrs().Name, a.err)
		}
	}
	if got == nil {
		return Network{}, last
	}
	for index, link := range asked {
		if index != got.link.Attrs().Index {
			if err := netlink.LinkSetDown(link); err != nil {
				return Network{}, fmt.Errorf("setting down %s: %w", link.Attrs().Name, err)
			}
		}
	}
	return *got, nil
}

// ask asks for a lease on one interface until it gets one, ctx ends, or the
// interface itself fails. Its error is that of the last try.
func ask(ctx context.Context, p pace, link netlink.Link) (Network, error) {
	if err := closeToOthers(link.Attrs().Name); err != nil {
		return Network{}, err
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return Network{}, err
	}
	var last error
	for {
		n, err := exchange(ctx, p, link)
		if err == nil {
			return n, nil
		}
		if last == nil || ctx.Err() == nil {
			last = err
		}
		var refused *refusedError
		if !errors.As(err, &refused) || wait.For(ctx, p.first) != nil {
			return Network{}, last
		}
	}
}

// refusedError is the error of a server that answers without a lease. Its next
// answer may be a lease.
type refusedError struct{ err error }

func (e *refusedError) Error() string { return e.err.Error() }
func (e *refusedError) Unwrap() error { return e.err }

// exchange is DISCOVER, OFFER, REQUEST, ACK (RFC 2131, section 3.1).
func exchange(ctx context.Context, p pace, link netlink.Link) (Network, error) {
	client, err := nclient4.New(link.Attrs().Name, nclient4.WithRetry(1), nclient4.WithTimeout(p.most))
	if err != nil {
		return Network{}, err
	}
	defer client.Close()
	wanted := dhcpv4.WithRequestedOptions(dhcpv4.OptionSubnetMask, dhcpv4.OptionClasslessStaticRoute, dhcpv4.OptionRouter,
		dhcpv4.OptionDomainNameServer, dhcpv4.OptionInterfaceMTU)
	size := dhcpv4.WithOption(dhcpv4.OptMaxMessageSize(nclient4.MaxMessageSize))
	discover, err := dhcpv4.NewDiscovery(link.Attrs().HardwareAddr, size, wanted)
	if err != nil {
		return Network{}, err
	}
	offer, err := send(ctx, p, client, discover, 0, nclient4.IsMessageType(dhcpv4.MessageTypeOffer))
	if err != nil {
		return Network{}, fmt.Errorf("DISCOVER: %w", err)
	}
	request, err := dhcpv4.NewRequestFromOffer(offer, size, wanted)
	if err != nil {
		return Network{}, err
	}
	ack, err := send(ctx, p, client, request, requestTries, nclient4.IsAll(nclient4.IsCorrectServer(offer.ServerIdentifier()),
		nclient4.IsMessageType(dhcpv4.MessageTypeAck, dhcpv4.MessageTypeNak)))
	switch {
	case errors.Is(err, nclient4.ErrNoResponse):
		return Network{}, &refusedError{fmt.Errorf("REQUEST: %w", err)}
	case err != nil:
		return Network{}, fmt.Errorf("REQUEST: %w", err)
	case ack.MessageType() == dhcpv4.MessageTypeNak:
		return Network{}, &refusedError{fmt.Errorf("REQUEST: server %s answers NAK %q", offer.ServerIdentifier(), ack.Message())}
	}
	n, err := parseLease(ack)
	if err != nil {
		return Network{}, &refusedError{err}
	}
	n.link = link
	return n, nil
}

// requestTries is the number of REQUESTs to a server that made an offer, before the
// client sends a new DISCOVER (RFC 2131, section 3.1, point 5).
const requestTries = 4

// send repeats one message until an answer comes, ctx ends, or it was sent tries
// times; 0 means no such bound. If a message could not be sent, send goes on as if
// no answer had come: the link may get its carrier later.
func send(ctx context.Context, p pace, client *nclient4.Client, message *dhcpv4.DHCPv4, tries int, match nclient4.Matcher) (*dhcpv4.DHCPv4, error) {
	for n, patience := 1, p.first; ; n, patience = n+1, min(2*patience, p.most) {
		try, cancel := context.WithTimeout(ctx, patience)
		reply, err := client.SendAndRead(try, client.RemoteAddr(), message, match)
		if err != nil && try.Err() == nil {
			wait.For(try, patience)
		}
		cancel()
		switch {
		case err == nil:
			return reply, nil
		case ctx.Err() != nil:
			return nil, fmt.Errorf("no answer to %d messages", n)
		case n == tries:
			return nil, nclient4.ErrNoResponse
		}
	}
}
