package guard

import "net/netip"

// MaxEmbedded is the most addresses that [AppendEmbedded] appends for one address.
const MaxEmbedded = 6

// Embedded returns the IPv4 addresses inside an IPv6 address, none for an IPv4 one. See [AppendEmbedded].
func Embedded(a netip.Addr) []netip.Addr { return AppendEmbedded(nil, a) }

// AppendEmbedded appends the IPv4 addresses that a translator or tunnel would read out of an IPv6 address, at most
// [MaxEmbedded]. It knows
//
//   - IPv4-mapped ::ffff:0:0/96 and IPv4-compatible ::/96 (RFC 4291 section 2.5.5), except :: and ::1;
//   - IPv4-translated ::ffff:0:0:0/96 (RFC 2765, RFC 7915);
//   - NAT64 with the well-known prefix 64:ff9b::/96 (RFC 6052 section 2.1);
//   - NAT64 with a prefix of length 48, 56, 64 or 96 in the local-use block 64:ff9b:1::/48 (RFC 8215). The length is the
//     network's choice and not visible, so every reading counts;
//   - 6to4 2002::/16 (RFC 3056);
//   - Teredo 2001::/32 (RFC 4380 section 4): the server, and the client whose bits are inverted;
//   - ISATAP interface identifiers in any prefix (RFC 5214 section 6.1).
//
// A network's own NAT64 prefix (RFC 6052 section 2.2) cannot be told from the address alone.
func AppendEmbedded(dst []netip.Addr, a netip.Addr) []netip.Addr {
	if !a.Is6() {
		return dst
	}
	b := a.As16()
	at := func(i int) netip.Addr { return netip.AddrFrom4([4]byte(b[i : i+4])) }
	switch {
	case [12]byte(b[:12]) == [12]byte{10: 0xff, 11: 0xff}:
		return append(dst, at(12))
	case [12]byte(b[:12]) == [12]byte{}:
		if a.IsUnspecified() || a.IsLoopback() {
			return dst
		}
		return append(dst, at(12))
	case [12]byte(b[:12]) == [12]byte{8: 0xff, 9: 0xff}:
		return append(dst, at(12))
	case [12]byte(b[:12]) == [12]byte{0x00, 0x64, 0xff, 0x9b}:
		return append(dst, at(12))
	case [6]byte(b[:6]) == [6]byte{0x00, 0x64, 0xff, 0x9b, 0x00, 0x01}:
		dst = appendLocalUse(dst, b)
	case b[0] == 0x20 && b[1] == 0x02:
		dst = append(dst, at(2))
	case [4]byte(b[:4]) == [4]byte{0x20, 0x01}:
		client := netip.AddrFrom4([4]byte{^b[12], ^b[13], ^b[14], ^b[15]})
		dst = append(dst, at(4), client)
	}
	// The two low bits of the first octet are the universal and group bits (RFC 5214 section 6.1): any value is ISATAP.
	if b[8]&^3 == 0 && [3]byte(b[9:12]) == [3]byte{0x00, 0x5e, 0xfe} {
		dst = append(dst, at(12))
	}
	return dst
}

// appendLocalUse appends the readings of an address in 64:ff9b:1::/48 (RFC 6052 section 2.2; octet 8 is skipped).
// Short prefixes leave zeros where longer ones have the address, so a reading in 0.0.0.0/8 counts only when no other
// reading is left: otherwise every such address would hold the guarded 0.0.0.0.
func appendLocalUse(dst []netip.Addr, b [16]byte) []netip.Addr {
	readings := [...][4]byte{
		{b[6], b[7], b[9], b[10]},
		{b[7], b[9], b[10], b[11]},
		{b[9], b[10], b[11], b[12]},
		{b[12], b[13], b[14], b[15]},
	}
	n := len(dst)
	for _, r := range readings {
		if r[0] != 0 {
			dst = append(dst, netip.AddrFrom4(r))
		}
	}
	if len(dst) == n {
		dst = append(dst, netip.AddrFrom4(readings[3]))
	}
	return dst
}
