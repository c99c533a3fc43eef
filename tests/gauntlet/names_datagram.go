//go:build linux

package gauntlet

// dtlsRows lie in DTLS, whose hello comes in datagrams and in clear text.
func dtlsRows() []Row {
	row := func(id, vector, right, record string, say func(a *Attacker) [][]byte) Row {
		return Row{
			ID: "names/" + id, Vector: vector, Right: right, Source: "security.md 2.3, nDPI dtls", Rules: shopOnly, Lifted: shopAddressToo,
			Attack: func(a *Attacker) error {
				a.learn("shop.example")
				return a.sayDatagrams(at(Shop, 443), moment, say(a)...)
			},
			Harm: Heard, Record: []string{record},
		}
	}
	hello := func(a *Attacker) []byte { return dtlsHello(serverName("sibling.example"), alpn(a.Token)) }
	return []Row{
		row("dtls", "DTLS to a shared address with another name", "denied", mismatch+" sni=sibling.example", func(a *Attacker) [][]byte {
			h := hello(a)
			return [][]byte{dtlsFragment(h, 0, len(h), 0)}
		}),
		row("dtls-fragments", "a DTLS hello in fragments over two datagrams", "a name that may be in the other half is none: denied", malformed, func(a *Attacker) [][]byte {
			h := hello(a)
			return [][]byte{dtlsFragment(h, 0, 60, 0), dtlsFragment(h, 60, len(h)-60, 1)}
		}),
		row("dtls-late", "a datagram of no protocol first, then the DTLS hello", "a later hello is judged when it comes",
			"network-close verdict=deny protocol=udp dest_ip=198.51.100.10 close=policy reason=name-mismatch", func(a *Attacker) [][]byte {
				h := hello(a)
				return [][]byte{[]byte("\x01 what is this"), dtlsFragment(h, 0, len(h), 0)}
			}),
	}
}
