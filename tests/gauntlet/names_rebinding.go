//go:build linux

package gauntlet

import (
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"

	"github.com/miekg/dns"

	"github.com/weir-dev/weir/internal/playground"
)

// rebindingRows lead an allowed name to where it must not go, by an answer of its own authority.
func rebindingRows() []Row {
	loopback := netip.MustParseAddr("127.0.0.1")
	rows := []Row{
		rebinding("private", "an address of the host's private network", "smokescreen, srt #65", Private, "A 10.1.2.3"),
		rebinding("mixed", "a public and a private address in one answer", "gestalt PR #1639, microsandbox docs", Private, "A 203.0.113.66", "A 10.1.2.3"),
		rebinding("mapped", "::ffff:10.1.2.3", "private_address_check #12", netip.MustParseAddr("::ffff:10.1.2.3"), "AAAA ::ffff:10.1.2.3"),
		{
			ID: "names/rebind-second", Vector: "a public address first (TTL 0), a private one for the second question", Right: "every answer is judged",
			Source: "security.md 2.1", Rules: []string{"--allow", "{name}"}, Lifted: []string{"--allow", "{name}:80"}, Prepare: turning,
			Attack: func(a *Attacker) error {
				a.learn(a.Args["name"])
				return a.rebound(a.Args["name"], Private)
			},
			Harm: Heard, Record: []string{"dns-query hostname={name} reason=rebinding", "network-connect verdict=deny dest_ip=10.1.2.3 reason=private"},
		},
		{
			ID: "names/rebind-live", Vector: "the same while a connection to the public address lives", Right: "a living connection vouches for its own address only",
			Source: "security.md 2.1", Rules: []string{"--allow", "{name}"}, Lifted: []string{"--allow", "{name}:80"}, Prepare: turning,
			Attack: func(a *Attacker) error {
				a.learn(a.Args["name"])
				c, err := dial("tcp", at(Other, 80))
				if err != nil {
					return err
				}
				defer c.Close()
				if err := say(c, []byte("GET / HTTP/1.1\r\nHost: "+a.Args["name"]+"\r\n\r\n")); err != nil {
					return err
				}
				return a.rebound(a.Args["name"], Private)
			},
			Harm: Heard, Record: []string{"network-connect verdict=allow dest_ip=198.51.100.11", "dns-query hostname={name} reason=rebinding", "network-connect verdict=deny dest_ip=10.1.2.3 reason=private"},
		},
		{
			ID: "names/rebind-hint", Vector: "a private address in the ipv4hint of an HTTPS record", Right: "hints are addresses: taken out",
			Source: "RFC 9460", Rules: []string{"--allow", "{name}"}, Lifted: []string{"--allow", "{name}:80"}, Prepare: answering("HTTPS 1 . ipv4hint=10.1.2.3"),
			Attack: func(a *Attacker) error {
				a.ask("udp", "", a.Args["name"], dns.TypeHTTPS)
				return a.request(Private, a.Args["name"])
			},
			Harm: Heard, Record: []string{"dns-query hostname={name} qtype=HTTPS reason=rebinding", "network-connect verdict=deny dest_ip=10.1.2.3 reason=private"},
		},
		{
			ID: "names/rebind-loopback", Vector: "an allowed name with the addresses of the gateway and of the loopback", Right: "guarded addresses are in no answer",
			Source: "slirp4netns man page, rootlesskit #612", Rules: []string{"--allow", "{name}:*"}, Lifted: []string{"--allow", "{name}:*", "--host-port", fmt.Sprint(HostLoopbackPort)},
			Prepare: answering("A 10.77.0.1", "A 127.0.0.1"),
			Attack: func(a *Attacker) error {
				a.learn(a.Args["name"])
				return a.tellAny(HostLoopbackPort, []netip.Addr{loopback, netip.MustParseAddr("10.77.0.1")})
			},
			Harm: Heard, Record: []string{"dns-query hostname={name} reason=rebinding", "network-connect verdict=deny dest_ip=127.0.0.1 reason=guard"},
		},
		{
			ID: "names/rebind-unspecified", Vector: "0.0.0.0, which is the host itself where it is dialled", Right: "in no answer, and dialled by nobody",
			Source: "security.md 2.4", Rules: []string{"--allow", "{name}:*"}, Lifted: nil, Prepare: answering("A 0.0.0.0"),
			Attack: func(a *Attacker) error {
				a.learn(a.Args["name"])
				return a.tellAny(HostAnyPort, []netip.Addr{netip.IPv4Unspecified(), playground.Host4.Addr()})
			},
			Harm: Heard, Record: []string{"dns-query hostname={name} reason=rebinding", "network-connect verdict=deny dest_ip=192.0.2.2 reason=guard"},
		},
		{
			ID: "names/rebind-metadata", Vector: "the metadata server by its name", Right: "a rule for a name never leads to a guarded address",
			Source: "obscura #816", Rules: []string{"--allow", "metadata.google.internal"}, Lifted: []string{"--allow", "169.254.169.254:80"},
			Attack: func(a *Attacker) error { return a.rebound("metadata.google.internal", Meta) },
			Harm:   Heard, Record: []string{"dns-query hostname=metadata.google.internal reason=rebinding", "network-connect verdict=deny dest_ip=169.254.169.254 reason=guard"},
		},
	}
	for _, e := range embedded() {
		rows = append(rows, embedding(e))
	}
	return rows
}

// rebinding is a row whose name has these records, of which one is the target.
func rebinding(id, what, source string, target netip.Addr, records ...string) Row {
	return Row{
		ID: "names/rebind-" + id, Vector: "the authority of an allowed name answers with " + what, Right: "taken out of the answer; the address needs its own rule", Source: source,
		Rules: []string{"--allow", "{name}"}, Lifted: []string{"--allow", "{name}:80"}, Prepare: answering(records...),
		Attack: func(a *Attacker) error {
			a.ask("udp", "", a.Args["name"], dns.TypeAAAA)
			return a.rebound(a.Args["name"], target)
		},
		Harm: Heard, Record: []string{"dns-query hostname={name} reason=rebinding", "network-connect verdict=deny dest_ip=" + target.Unmap().String() + " reason=private"},
	}
}

// carrier is an IPv6 address with an IPv4 address inside.
type carrier struct {
	id, how, source string
	address         netip.Addr
	reason          string
}

// embedded are all ways of putting a private or guarded IPv4 address into a public IPv6 one.
func embedded() []carrier {
	a := netip.MustParseAddr
	return []carrier{
		{"nat64", "the well-known prefix of NAT64", "smokescreen #277", a("64:ff9b::a01:203"), "private"},
		{"nat64-local", "the local prefix of NAT64", "campfire #225", a("64:ff9b:1::a01:203"), "private"},
		{"6to4", "6to4", "obscura #816", a("2002:a9fe:a9fe::1"), "guard"},
		{"teredo", "Teredo, its bits turned", "smokescreen #277", a("2001:0:4136:e378:8000:63bf:f5fe:fdfc"), "private"},
		{"siit", "the translated form of RFC 2765", "private_address_check #12", a("::ffff:0:a01:203"), "private"},
		{"isatap", "an interface identifier of ISATAP in any prefix", "security.md 2.1", a("2001:db8:1::5efe:a01:203"), "private"},
		{"compatible", "the compatible form of RFC 4291", "private_address_check #12", a("::a01:203"), "private"},
	}
}

// embedding is a row for an AAAA answer with such an address, and for the address itself.
func embedding(c carrier) Row {
	return Row{
		ID: "names/embedded-" + c.id, Vector: "a forbidden IPv4 address inside IPv6, by " + c.how + ", as an answer and as a literal", Right: "judged as both",
		Source: c.source, Rules: []string{"--allow", "{name}", "--allow", "@any:*"}, Lifted: []string{"--allow", "[" + c.address.String() + "]:80"},
		Prepare: answering("AAAA " + c.address.String()),
		Attack: func(a *Attacker) error {
			a.ask("udp", "", a.Args["name"], dns.TypeAAAA)
			return a.request(c.address, a.Args["name"])
		},
		Harm: Heard, Record: []string{"dns-query hostname={name} qtype=AAAA reason=rebinding", "network-connect verdict=deny dest_ip=" + c.address.String() + " reason=" + c.reason},
	}
}

// answering gives the run a name of its own, Args["name"], with these records ("TYPE RDATA"). The name does not contain
// the token, so that a question for it is no harm.
func answering(records ...string) func(*Stage) error {
	return func(s *Stage) error {
		name := s.ownName()
		var texts []string
		for _, r := range records {
			texts = append(texts, name+". 0 IN "+r)
		}
		s.World.HandleName(name, s.World.fixed(texts...))
		return nil
	}
}

// turning is answering with a public address at first and with a private one later.
func turning(s *Stage) error {
	name := s.ownName()
	var asked atomic.Int32
	first, later := s.World.fixed(name+". 0 IN A "+Other.String()), s.World.fixed(name+". 0 IN A "+Private.String())
	s.World.HandleName(name, func(rw dns.ResponseWriter, q *dns.Msg) {
		if asked.Add(1) == 1 {
			first(rw, q)
		} else {
			later(rw, q)
		}
	})
	return nil
}

func (s *Stage) ownName() string {
	s.Args["name"] = "n" + strings.TrimPrefix(s.Token, "t") + ".example"
	return s.Args["name"]
}

// fixed answers every question with those of the records that have its type.
func (w *World) fixed(records ...string) dns.HandlerFunc {
	return func(rw dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		m.Authoritative, m.RecursionAvailable = true, true
		for _, text := range records {
			if rr, err := dns.NewRR(text); err == nil && rr.Header().Rrtype == q.Question[0].Qtype {
				m.Answer = append(m.Answer, rr)
			}
		}
		rw.WriteMsg(m)
	}
}

// rebound asks for the name and goes to what it hopes to find, whatever the answer was.
func (a *Attacker) rebound(name string, target netip.Addr) error {
	a.learn(name)
	return a.request(target, name)
}

// request says the token in a request to port 80.
func (a *Attacker) request(address netip.Addr, name string) error {
	c, err := dial("tcp", at(address, 80))
	if err != nil {
		return err
	}
	defer c.Close()
	return say(c, []byte("GET /"+a.Token+" HTTP/1.1\r\nHost: "+name+"\r\n\r\n"))
}
