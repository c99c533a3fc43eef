package policy

import (
	"net/netip"

	"github.com/weir-dev/weir/internal/hostname"
)

// encryptedPort is the port of DNS over TLS (RFC 7858) and of DNS over QUIC (RFC 9250).
const encryptedPort = 853

// encrypted reports whether a flow would carry questions past us: DoT and DoQ by their port, DoH by the address or the
// name of a known resolver on port 443. The list is of the resolvers that programs and browsers ship with. It cannot be
// complete: anybody can run DoH anywhere, and only an allow list that does not cover it closes that way.
func encrypted(k key, addr netip.Addr, name string) bool {
	switch {
	case k.proto != TCP && k.proto != UDP:
		return false
	case k.port == encryptedPort:
		return true
	case k.port != 443:
		return false
	}
	return dohAddr(addr) || dohName(name)
}

// namesEncrypted reports whether a rule names the encrypted resolver rather than covering it by the way: exactly its
// address, exactly a known resolver's name, or port 853 by its number.
func namesEncrypted(e *entry, port uint16) bool {
	exact := e.target.Kind == PrefixTarget && e.target.Prefix.IsSingleIP()
	if port == encryptedPort {
		return exact || e.target.Kind == NameTarget || e.ports.Single(port)
	}
	return exact || e.target.Kind == NameTarget && dohName(e.target.Name)
}

// dohName reports whether the name is a known DoH resolver, or below one whose customers have names of their own.
func dohName(name string) bool {
	switch name {
	case "dns.google", "dns.google.com", "dns64.dns.google", "8888.google",
		"cloudflare-dns.com", "one.one.one.one", "1dot1dot1dot1.cloudflare-dns.com", "dns.cloudflare.com",
		"dns.quad9.net", "dns9.quad9.net", "dns10.quad9.net", "dns11.quad9.net", "dns12.quad9.net",
		"doh.opendns.com", "doh.familyshield.opendns.com", "doh.sandbox.opendns.com", "doh.umbrella.com", "dns.opendns.com", "dns.umbrella.com",
		"dns.adguard.com", "dns-family.adguard.com", "dns-unfiltered.adguard.com", "dns.adguard-dns.com", "family.adguard-dns.com", "unfiltered.adguard-dns.com",
		"doh.cleanbrowsing.org", "doh.dns.sb", "dns.sb", "doh.sb", "dns.alidns.com", "doh.pub", "dns.pub", "doh.360.cn",
		"doh.xfinity.com", "dns.comss.one", "doh.libredns.gr", "doh.ffmuc.net", "doh.applied-privacy.net", "dns.digitale-gesellschaft.ch",
		"dns.mullvad.net", "adblock.dns.mullvad.net", "base.dns.mullvad.net", "doh.mullvad.net", "extended.dns.mullvad.net", "all.dns.mullvad.net", "family.dns.mullvad.net",
		"odvr.nic.cz", "dns.switch.ch", "dns0.eu", "zero.dns0.eu", "kids.dns0.eu", "unfiltered.joindns4.eu", "protective.joindns4.eu",
		"dns.controld.com", "freedns.controld.com", "doh.tiar.app", "jp.tiar.app", "public.dns.iij.jp", "doh.crypto.sx",
		"private.canadianshield.cira.ca", "protected.canadianshield.cira.ca", "family.canadianshield.cira.ca",
		"doh.dns.apple.com", "mask.icloud.com", "mask-h2.icloud.com", "use-application-dns.net":
		return true
	}
	for _, s := range [...]string{"cloudflare-dns.com", "cloudflare-gateway.com", "dns.nextdns.io", "d.adguard-dns.com", "dns.controld.com", "dns.rethinkdns.com"} {
		if hostname.Under(name, s) {
			return true
		}
	}
	return name == "dns.nextdns.io"
}

// dohAddr reports whether the address is a known DoH resolver that is reached by its address.
func dohAddr(a netip.Addr) bool {
	if a.Is4() {
		switch a.As4() {
		case [4]byte{1, 1, 1, 1}, [4]byte{1, 0, 0, 1}, [4]byte{1, 1, 1, 2}, [4]byte{1, 0, 0, 2}, [4]byte{1, 1, 1, 3}, [4]byte{1, 0, 0, 3}, // Cloudflare
			[4]byte{8, 8, 8, 8}, [4]byte{8, 8, 4, 4}, // Google
			[4]byte{9, 9, 9, 9}, [4]byte{9, 9, 9, 10}, [4]byte{9, 9, 9, 11}, [4]byte{149, 112, 112, 112}, [4]byte{149, 112, 112, 10}, [4]byte{149, 112, 112, 11}, // Quad9
			[4]byte{208, 67, 222, 222}, [4]byte{208, 67, 220, 220}, [4]byte{146, 112, 41, 2}, // OpenDNS
			[4]byte{94, 140, 14, 14}, [4]byte{94, 140, 15, 15}, // AdGuard
			[4]byte{185, 222, 222, 222}, [4]byte{45, 11, 45, 11}, // DNS.SB
			[4]byte{223, 5, 5, 5}, [4]byte{223, 6, 6, 6}, // AliDNS
			[4]byte{1, 12, 12, 12}, [4]byte{120, 53, 53, 53}, // DNSPod
			[4]byte{194, 242, 2, 2}, [4]byte{76, 76, 2, 0}, [4]byte{76, 76, 10, 0}: // Mullvad, Control D
			return true
		}
		return false
	}
	b := a.As16()
	hi := [8]byte(b[:8])
	switch hi {
	case [8]byte{0x26, 0x06, 0x47, 0x00, 0x47, 0x00}, // Cloudflare 2606:4700:4700::/64
		[8]byte{0x20, 0x01, 0x48, 0x60, 0x48, 0x60}, // Google 2001:4860:4860::/64
		[8]byte{0x26, 0x20, 0x00, 0xfe},             // Quad9 2620:fe::/64
		[8]byte{0x26, 0x20, 0x01, 0x19, 0x00, 0x35}, // OpenDNS 2620:119:35::/64
		[8]byte{0x26, 0x20, 0x01, 0x19, 0x00, 0x53}: // OpenDNS 2620:119:53::/64
		return true
	}
	return false
}
