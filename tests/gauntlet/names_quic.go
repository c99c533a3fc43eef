//go:build linux

package gauntlet

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/quic-go/quic-go"
)

// quicRows lie in QUIC, whose hello is encrypted with a key that everybody knows.
func quicRows() []Row {
	return []Row{
		{
			ID: "names/quic-lie", Vector: "QUIC to an unlisted address with the server name of an allowed one", Right: "denied by the name in the Initial; no datagram leaves",
			Source: "no peer reads QUIC; E2B: cannot be filtered", Rules: shopOnly, Lifted: []string{"--allow", "shop.example", "--allow", Evil.String() + ":443"},
			Attack: func(a *Attacker) error { return a.tellQUIC(nil, at(Evil, 443), "shop.example") },
			Harm:   Heard, Record: []string{"network-connect verdict=deny protocol=udp dest_ip=203.0.113.66 reason=no-evidence sni=shop.example name_source=quic-sni"},
		},
		{
			ID: "names/quic-sibling", Vector: "QUIC to a shared address with another name, its hello over two datagrams (ML-KEM)", Right: "the hello is put together and judged",
			Source: "nDPI #1195, sing-box #1724", Rules: shopOnly, Lifted: siblingToo,
			Attack: func(a *Attacker) error {
				a.learn("shop.example")
				return a.tellQUIC(nil, at(Shop, 443), "sibling.example")
			},
			Harm: Heard, Record: []string{mismatch + " sni=sibling.example name_source=quic-sni"},
		},
		{
			ID: "names/quic-v2", Vector: "the same in QUIC version 2, whose keys are others", Right: "read as well",
			Source: "RFC 9369", Rules: shopOnly, Lifted: siblingToo,
			Attack: func(a *Attacker) error {
				a.learn("shop.example")
				return a.quicAtShop(&quic.Config{Versions: []quic.Version{quic.Version2}, HandshakeIdleTimeout: quicPatience}, "sibling.example")
			},
			Harm: Heard, Record: []string{mismatch + " sni=sibling.example name_source=quic-sni"},
		},
		{
			ID: "names/quic-second", Vector: "a second connection from the same socket, with another name", Right: "every Initial is looked at, not only the first",
			Source: "security.md 2.3", Rules: shopOnly, Lifted: siblingToo,
			Attack: func(a *Attacker) error {
				a.learn("shop.example")
				return a.quicAtShop(&quic.Config{HandshakeIdleTimeout: quicPatience}, "shop.example", "sibling.example")
			},
			Harm: Heard, Record: []string{"network-close verdict=deny protocol=udp dest_ip=198.51.100.10 close=policy reason=name-mismatch"},
		},
	}
}

// initialRows put QUIC Initial packets together as no library does.
func initialRows() []Row {
	hello := quicHello("sibling.example")
	half := len(hello) / 2
	return []Row{
		quicDatagrams("quic-shuffled", "the parts of a hello in the wrong order, over three datagrams that begin with number 7", "put together by their offsets",
			"v2ray #2335 (packet number 0 assumed), suricata quic-frag", mismatch+" sni=sibling.example", func(a *Attacker) [][]byte {
				third := len(hello) / 3
				return [][]byte{
					initial{dcid: "shuffled", token: a.Token, number: 7, frames: append([]byte{1}, crypto(2*third, hello[2*third:])...)}.packet(),
					initial{dcid: "shuffled", token: a.Token, number: 8, frames: crypto(third, hello[third:2*third])}.packet(),
					initial{dcid: "shuffled", token: a.Token, number: 9, frames: crypto(0, hello[:third])}.packet(),
				}
			}),
		quicDatagrams("quic-overlap", "two CRYPTO frames that overlap and differ in the name", "a server could take either: denied",
			"flow/sniff", malformed, func(a *Attacker) [][]byte {
				allowed := clientHello(serverName("some.shop.example"), modern(), alpn("gauntlet"), extension(0x39))[:half]
				return [][]byte{initial{dcid: "overlaps", token: a.Token, frames: slices.Concat(crypto(0, allowed), crypto(0, hello))}.packet()}
			}),
		quicDatagrams("quic-two-hellos", "a second hello right behind the first in the CRYPTO stream", "it must name what the first did",
			"RFC 8446 4.1.2", malformed, func(a *Attacker) [][]byte {
				return [][]byte{initial{dcid: "2 hellos", token: a.Token, frames: crypto(0, append(quicHello("shop.example"), hello...))}.packet()}
			}),
		quicDatagrams("quic-coalesced", "the Initials of two connections in one datagram", "they are one or they are denied",
			"suricata quic-initial-not-first", malformed, func(a *Attacker) [][]byte {
				first := initial{dcid: "conn one", short: true, frames: crypto(0, quicHello("shop.example"))}.packet()
				return [][]byte{append(first, initial{dcid: "conn two", token: a.Token, frames: crypto(0, hello)}.packet()...)}
			}),
	}
}

// unreadableRows have no name that can be read.
func unreadableRows() []Row {
	hello := quicHello("sibling.example")
	return []Row{
		quicDatagrams("quic-headless", "a packet of a connection that was opened elsewhere, without an Initial", "no verdict to inherit: denied",
			"security.md 2.3, connection migration", "network-connect verdict=deny protocol=udp dest_ip=198.51.100.10 reason=no-evidence", func(a *Attacker) [][]byte {
				return [][]byte{append([]byte{0x43}, []byte("12345678"+a.Token+"................")...)}
			}),
		quicDatagrams("quic-foreign", "a QUIC version that nobody here can read", "a name that cannot be read is not allowed",
			"AdGuard CoreLibs #1554", "network-connect verdict=deny protocol=udp dest_ip=198.51.100.10 reason=no-evidence", func(a *Attacker) [][]byte {
				return [][]byte{foreignQUIC(a.Token)}
			}),
		quicDatagrams("quic-foreign-between", "the same between the two halves of a hello that is allowed", "what was held while the name was read is judged, too",
			"the gauntlet", "network-connect protocol=udp dest_ip=198.51.100.10", func(a *Attacker) [][]byte {
				allowed := quicHello("shop.example")
				half := len(allowed) / 2
				return [][]byte{
					initial{dcid: "between ", frames: crypto(0, allowed[:half])}.packet(), foreignQUIC(a.Token),
					initial{dcid: "between ", number: 1, frames: crypto(half, allowed[half:])}.packet(),
				}
			}),
		{
			ID: "names/quic-undecodable", Vector: "Initials that no key opens", Right: "they do not pass unread",
			Source: "AdGuard CoreLibs #1554", Rules: shopOnly,
			Attack: func(a *Attacker) error {
				a.learn("shop.example")
				broken := initial{dcid: "broken!!", token: a.Token, frames: crypto(0, hello)}.packet()
				broken[len(broken)-1] ^= 1
				return a.sayDatagrams(at(Shop, 443), 3200*time.Millisecond, broken)
			},
			Harm: Heard, Record: []string{malformed + " protocol=udp"},
		},
	}
}

// quicDatagrams is a row that sends these to an address where only shop.example is allowed.
func quicDatagrams(id, vector, right, source, record string, say func(a *Attacker) [][]byte) Row {
	return Row{
		ID: "names/" + id, Vector: vector, Right: right, Source: source, Rules: shopOnly, Lifted: shopAddressToo,
		Attack: func(a *Attacker) error {
			a.learn("shop.example")
			return a.sayDatagrams(at(Shop, 443), moment, say(a)...)
		},
		Harm: Heard, Record: []string{record},
	}
}

// foreignQUIC is a packet with the long header that all versions share (RFC 8999), of a version that does not exist.
func foreignQUIC(token string) []byte {
	packet := slices.Concat([]byte{0xc0, 0xfa, 0xce, 0xb0, 0x0c}, vec8([]byte("foreign!")...), vec8(), []byte(token))
	return append(packet, make([]byte, 1200-len(packet))...)
}

// quicAtShop opens a connection for each name from one socket to one address, and says the token in the last.
func (a *Attacker) quicAtShop(conf *quic.Config, names ...string) error {
	pc, err := net.ListenUDP("udp4", nil)
	if err != nil {
		return err
	}
	defer pc.Close()
	t := &quic.Transport{Conn: pc}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for i, name := range names {
		c, err := t.Dial(ctx, net.UDPAddrFromAddrPort(netip.AddrPortFrom(Shop, 443)), &tls.Config{ServerName: name, InsecureSkipVerify: true, NextProtos: []string{"gauntlet"}}, conf)
		if err != nil {
			return err
		}
		defer c.CloseWithError(0, "")
		if i < len(names)-1 {
			continue
		}
		s, err := c.OpenStreamSync(ctx)
		if err != nil {
			return err
		}
		if _, err := io.WriteString(s, a.Token); err != nil {
			return err
		}
		s.SetReadDeadline(time.Now().Add(patience))
		if _, err := s.Read(make([]byte, 16)); err != nil && err != io.EOF {
			return err
		}
	}
	return nil
}
