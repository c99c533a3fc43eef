// Package guard knows which addresses are never ordinary.
//
// A program in a sandbox must not reach the machine it runs on, the links that machine is on, nor the services through
// which clouds hand out credentials, whatever name led there and however the address is spelled. [Classify] says what
// kind of address it is and [Range] in which guarded block it lies; [Embedded] gives every IPv4 address that some
// translator or tunnel would take out of an IPv6 address, because such a packet ends at the IPv4 one. Callers judge an
// address and everything embedded in it.
//
// The package has no policy: which guards a rule may lift is decided by its callers (flow/policy, and the dial check of a
// tunnel client). Everything but [Host] is a pure function of the address.
package guard

import (
	"net/netip"
)

// Class is the kind of an address.
type Class uint8

// The classes. An address has exactly one: the most specific that applies, so that the metadata service inside the
// link-local block is Metadata.
const (
	// Public is every address without another class: what @public means. The documentation blocks (RFC 5737, RFC 3849)
	// are Public, since here and there real services sit behind them.
	Public Class = iota
	// Private is an address with a meaning on private networks only: RFC 1918, unique local (RFC 4193), site-local
	// (RFC 3879), shared address space (RFC 6598), 192.0.0.0/24 (RFC 6890) and benchmarking (RFC 2544).
	Private
	// Reserved is address space without any use on today's networks: 240.0.0.0/4 (RFC 1112) and the discard
	// prefix 100::/64 (RFC 6666). It is neither public nor guarded: only a rule that covers it reaches it.
	Reserved
	// Loopback is 127.0.0.0/8 and ::1.
	Loopback
	// Unspecified is 0.0.0.0/8 (RFC 1122 section 3.2.1.3; Linux takes 0.0.0.0 for itself) and ::.
	Unspecified
	// LinkLocal is 169.254.0.0/16 (RFC 3927) and fe80::/10.
	LinkLocal
	// Multicast is 224.0.0.0/4 and ff00::/8.
	Multicast
	// Broadcast is 255.255.255.255 (RFC 919). Directed broadcasts lie in their network's class.
	Broadcast
	// Metadata is a service through which a cloud hands out credentials or configuration.
	Metadata
	// Own is an address of the host itself. [Classify] never returns it; [Host] knows.
	Own
)

// String returns the class as it is written in explanations.
func (c Class) String() string {
	names := [...]string{"public", "private", "reserved", "loopback", "unspecified", "link-local", "multicast", "broadcast", "metadata", "host"}
	if int(c) < len(names) {
		return names[c]
	}
	return "unknown"
}

// Guarded reports whether addresses of the class are closed unless a rule names exactly them.
func (c Class) Guarded() bool { return c >= Loopback }

// Classify returns the class of an address. IPv4-mapped addresses are taken for the IPv4 address they are, zones are
// ignored; other embedded addresses are not looked at (see [Embedded]). The zero Addr is Unspecified.
func Classify(a netip.Addr) Class {
	c, _ := lookup(a)
	return c
}

// Range returns the smallest guarded or private block that holds the address, a single address for metadata services.
// ok is false for Public and Reserved addresses.
func Range(a netip.Addr) (block netip.Prefix, ok bool) {
	c, p := lookup(a)
	return p, c == Private || c.Guarded()
}

// lookup walks the table of the address family; the tables are short and ordered from specific to general.
func lookup(a netip.Addr) (Class, netip.Prefix) {
	a = a.Unmap().WithZone("")
	switch {
	case !a.IsValid():
		return Unspecified, netip.Prefix{}
	case a.Is4():
		return lookup4(a)
	default:
		return lookup6(a)
	}
}

func lookup4(a netip.Addr) (Class, netip.Prefix) {
	b := a.As4()
	block := func(c Class, bits int) (Class, netip.Prefix) {
		p, _ := a.Prefix(bits)
		return c, p
	}
	switch {
	case metadata4(b):
		return block(Metadata, 32)
	case b[0] == 0:
		return block(Unspecified, 8)
	case b[0] == 10:
		return block(Private, 8)
	case b[0] == 100 && b[1]&0xc0 == 64:
		return block(Private, 10)
	case b[0] == 127:
		return block(Loopback, 8)
	case b[0] == 169 && b[1] == 254:
		return block(LinkLocal, 16)
	case b[0] == 172 && b[1]&0xf0 == 16:
		return block(Private, 12)
	case b[0] == 192 && b[1] == 0 && b[2] == 0:
		return block(Private, 24)
	case b[0] == 192 && b[1] == 168:
		return block(Private, 16)
	case b[0] == 198 && b[1]&0xfe == 18:
		return block(Private, 15)
	case b[0]&0xf0 == 224:
		return block(Multicast, 4)
	case b == [4]byte{255, 255, 255, 255}:
		return block(Broadcast, 32)
	case b[0]&0xf0 == 240:
		return block(Reserved, 4)
	}
	return Public, netip.Prefix{}
}

// metadata4 lists the metadata services outside and inside the link-local block.
func metadata4(b [4]byte) bool {
	switch b {
	case [4]byte{169, 254, 169, 254}, // AWS, GCP, Azure, OpenStack, DigitalOcean, Oracle, Hetzner, Vultr, IBM ...
		[4]byte{169, 254, 169, 253}, [4]byte{169, 254, 169, 123}, // AWS resolver and clock
		[4]byte{169, 254, 170, 2}, [4]byte{169, 254, 170, 23}, // AWS ECS task and EKS pod credentials
		[4]byte{169, 254, 42, 42},   // Scaleway
		[4]byte{169, 254, 0, 23},    // Tencent
		[4]byte{100, 100, 100, 200}, // Alibaba
		[4]byte{192, 0, 0, 192},     // Oracle Cloud, classic
		[4]byte{168, 63, 129, 16}:   // Azure's wire server: goal state and certificates, on a public-looking address
		return true
	}
	return false
}

func lookup6(a netip.Addr) (Class, netip.Prefix) {
	b := a.As16()
	block := func(c Class, bits int) (Class, netip.Prefix) {
		p, _ := a.Prefix(bits)
		return c, p
	}
	switch {
	case b[0] == 0xfd && metadata6(b):
		return block(Metadata, 128)
	case b[0] == 0 && a.IsUnspecified():
		return block(Unspecified, 128)
	case b[0] == 0 && a.IsLoopback():
		return block(Loopback, 128)
	case b[0]&0xfe == 0xfc:
		return block(Private, 7)
	case b[0] == 0xfe && b[1]&0xc0 == 0x80:
		return block(LinkLocal, 10)
	case b[0] == 0xfe && b[1]&0xc0 == 0xc0:
		return block(Private, 10)
	case b[0] == 0xff:
		return block(Multicast, 8)
	case [8]byte(b[:8]) == [8]byte{0x01}:
		return block(Reserved, 64)
	}
	return Public, netip.Prefix{}
}

// metadata6 lists the metadata services inside the unique local block.
func metadata6(b [16]byte) bool {
	switch {
	case [4]byte(b[:4]) == [4]byte{0xfd, 0x00, 0x0e, 0xc2}: // AWS keeps all its instance services in fd00:ec2::/32
		return true
	case b == [16]byte{0xfd, 0x20, 0x00, 0xce, 15: 0x54, 14: 0x02}: // GCP, fd20:ce::254
		return true
	case b == [16]byte{0xfd, 0x00, 0x00, 0x42, 15: 0x42}: // Scaleway, fd00:42::42
		return true
	}
	return false
}
