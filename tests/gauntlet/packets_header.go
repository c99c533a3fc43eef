//go:build linux

package gauntlet

import (
	"bytes"
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

const moreFragments = 0x2000

// headerRows say in the IP header what they should not.
func headerRows() []Row {
	return []Row{
		onTheLink(Row{
			ID: "packets/spoofed-source", Vector: "an IPv4 packet from an address that is not the sandbox's", Right: "dropped and counted",
			Source: "security.md 0.6, gvisor-tap-vsock SetSpoofing", Harm: Heard, Record: dropped("drop-spoofed-source"),
		}, func(a *Attacker, w *wire) error {
			return w.packet(ip4{src: nobody4, dst: Shop, protocol: unix.IPPROTO_UDP, payload: udpSegment(nobody4, Shop, 7, a.Token)}.bytes())
		}),
		onTheLink(Row{
			ID: "packets/spoofed-source6", Vector: "the same over IPv6, where no router asks who it was", Right: "dropped and counted",
			Harm: Heard, Record: dropped("drop-spoofed-source"),
		}, func(a *Attacker, w *wire) error {
			return w.packet(ip6{src: nobody6, dst: Shop6, next: unix.IPPROTO_UDP, payload: udpSegment(nobody6, Shop6, 7, a.Token)}.bytes())
		}),
		onTheLink(Row{
			ID: "packets/source-route", Vector: "an IPv4 packet with a loose source route", Right: "dropped and counted (RFC 7126)",
			Source: "security.md 2.4", Prepare: tokenOnWire, Harm: onWire(1), Record: dropped("drop-source-route"),
		}, func(a *Attacker, w *wire) error {
			p := w.udp4(Shop, a.Token)
			evil := Evil.As4()
			p.options = append([]byte{131, 7, 4}, evil[0], evil[1], evil[2], evil[3], 0)
			return w.packet(p.bytes())
		}),
		onTheLink(Row{
			ID: "packets/lying-length", Vector: "an IP length beyond the end of the frame", Right: "dropped and counted",
			Prepare: tokenOnWire, Harm: onWire(1), Record: dropped("drop-malformed-ip"),
		}, func(a *Attacker, w *wire) error {
			b := w.udp4(Shop, a.Token).bytes()
			binary.BigEndian.PutUint16(b[2:], uint16(len(b)+100))
			binary.BigEndian.PutUint16(b[10:], 0)
			binary.BigEndian.PutUint16(b[10:], ^sum(b[:20], 0))
			return w.packet(b)
		}),
		onTheLink(Row{
			ID: "packets/tiny-fragments", Vector: "fragments of 8 octets, the port in another one than the data", Right: "judged when whole: denied",
			Source: "security.md 2.4", Harm: Heard, Record: deniedAt(Evil, "dest_port=7 protocol=udp"),
		}, func(a *Attacker, w *wire) error { return w.fragments(w.udp4(Evil, a.Token), 8) }),
		onTheLink(Row{
			ID: "packets/overlapping-fragments", Vector: "fragments that overwrite the port of the first one", Right: "all of them are dropped and counted (RFC 5722)",
			Source: "CVE-2020-1983, CVE-2019-15890, CVE-2019-14378", Prepare: tokenOnWire, Harm: onWire(1), Record: dropped("drop-ip-fragments"),
		}, func(a *Attacker, w *wire) error {
			first, second := w.udp4(Shop, "0123456789abcdef"), w.udp4(Shop, a.Token)
			first.fragment, first.id, second.id = moreFragments, 77, 77
			second.fragment = 1 // from octet 8 on, which the first one has too
			if err := w.packet(first.bytes()); err != nil {
				return err
			}
			return w.packet(second.bytes())
		}),
		onTheLink(Row{
			ID: "packets/extension-headers", Vector: "IPv6 with options in front of the UDP header, to a server that is denied", Right: "looked through: denied",
			Source: "security.md 2.4", Harm: Heard, Record: deniedAt(Evil6, "dest_port=7 protocol=udp"),
		}, func(a *Attacker, w *wire) error {
			p := w.udp6(Evil6, a.Token)
			return w.packet(behind(p, unix.IPPROTO_HOPOPTS, []byte{unix.IPPROTO_DSTOPTS, 0, 1, 4, 0, 0, 0, 0, unix.IPPROTO_UDP, 0, 1, 4, 0, 0, 0, 0}))
		}),
		onTheLink(Row{
			ID: "packets/routing-header", Vector: "IPv6 with a routing header of type 0", Right: "dropped and counted (RFC 5095)",
			Source: "security.md 2.4", Prepare: tokenOnWire, Harm: onWire(1), Record: dropped("drop-routing-header"),
		}, func(a *Attacker, w *wire) error {
			header := append([]byte{unix.IPPROTO_UDP, 2, 0, 1, 0, 0, 0, 0}, Evil6.AsSlice()...)
			return w.packet(behind(w.udp6(Shop6, a.Token), unix.IPPROTO_ROUTING, header))
		}),
		onTheLink(Row{
			ID: "packets/long-header-chain", Vector: "so many IPv6 extension headers that a filter stops looking", Right: "dropped and counted (RFC 7112)",
			Prepare: tokenOnWire, Harm: onWire(1), Record: dropped("drop-ipv6-long-header"),
		}, func(a *Attacker, w *wire) error {
			const n = 40
			chain := bytes.Repeat([]byte{unix.IPPROTO_DSTOPTS, 0, 1, 4, 0, 0, 0, 0}, n)
			chain[8*(n-1)] = unix.IPPROTO_UDP
			return w.packet(behind(w.udp6(Shop6, a.Token), unix.IPPROTO_DSTOPTS, chain))
		}),
	}
}

// behind puts headers, the first of which is of type next, in front of what p carries.
func behind(p ip6, next byte, headers []byte) []byte {
	p.next, p.payload = next, append(headers, p.payload...)
	return p.bytes()
}

// fragments sends p in pieces of size octets.
func (w *wire) fragments(p ip4, size int) error {
	whole := p.payload
	p.id = 4711
	for off := 0; off < len(whole); off += size {
		end := min(off+size, len(whole))
		p.payload, p.fragment = whole[off:end], uint16(off/8)
		if end < len(whole) {
			p.fragment |= moreFragments
		}
		if err := w.packet(p.bytes()); err != nil {
			return err
		}
	}
	return nil
}

// transportRows carry something that is no flow.
func transportRows() []Row {
	inner := func(a *Attacker) []byte {
		src, dst := netip.MustParseAddr("172.31.99.1"), Evil
		return ip4{src: src, dst: dst, protocol: unix.IPPROTO_UDP, payload: udpSegment(src, dst, 7, a.Token)}.bytes()
	}
	return []Row{
		onTheLink(Row{
			ID: "packets/unknown-protocol", Vector: "an IP protocol that nothing knows (253, RFC 3692)", Right: "refused and counted, to an allowed server too",
			Source: "security.md 2.4", Prepare: tokenOnWire, Harm: onWire(1), Record: dropped("drop-unknown-protocol"),
		}, func(a *Attacker, w *wire) error {
			return w.packet(ip4{src: w.addr4, dst: Shop, protocol: 253, payload: []byte(a.Token)}.bytes())
		}),
		onTheLink(Row{
			ID: "packets/ip-in-ip", Vector: "a packet for a denied server inside one for an allowed server (protocol 4)", Right: "refused and counted",
			Source: "security.md 2.4", Prepare: tokenOnWire, Harm: onWire(1), Record: dropped("drop-unknown-protocol"),
		}, func(a *Attacker, w *wire) error {
			return w.packet(ip4{src: w.addr4, dst: Shop, protocol: unix.IPPROTO_IPIP, payload: inner(a)}.bytes())
		}),
		onTheLink(Row{
			ID: "packets/icmp-timestamp", Vector: "an ICMP message other than echo, with data behind it", Right: "dropped and counted",
			Source: "security.md 2.4", Prepare: tokenOnWire, Harm: onWire(1), Record: dropped("drop-icmp-type"),
		}, func(a *Attacker, w *wire) error {
			b := append([]byte{13, 0, 0, 0, 0, 7, 0, 7}, a.Token...)
			binary.BigEndian.PutUint16(b[2:], ^sum(b, 0))
			return w.packet(ip4{src: w.addr4, dst: Shop, protocol: unix.IPPROTO_ICMP, payload: b}.bytes())
		}),
		onTheLink(Row{
			ID: "packets/stray-segment", Vector: "a TCP segment with data that belongs to no connection", Right: "it is no flow: nothing leaves",
			Prepare: tokenOnWire, Harm: onWire(1),
		}, func(a *Attacker, w *wire) error {
			b := make([]byte, 20, 64)
			binary.BigEndian.PutUint16(b, 40001)
			binary.BigEndian.PutUint16(b[2:], 80)
			b[12], b[13], b[14] = 5<<4, 0x18, 0x40 // PSH, ACK
			b = append(b, a.Token...)
			checksum(b[16:], b, w.addr4, Shop, unix.IPPROTO_TCP)
			return w.packet(ip4{src: w.addr4, dst: Shop, protocol: unix.IPPROTO_TCP, payload: b}.bytes())
		}),
	}
}
