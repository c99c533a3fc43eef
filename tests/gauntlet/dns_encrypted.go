//go:build linux

package gauntlet

import (
	"net"
	"strings"
)

// encryptedRows ask where nobody can read along.
func encryptedRows() []Row {
	const deny = "network-connect verdict=deny reason=encrypted-dns "
	return []Row{
		{
			ID: "dns/dot", Vector: "DNS over TLS to a public server, under a rule for everything public", Right: "port 853 needs a rule that names it",
			Source: "nDPI dns_dot.pcap, microsandbox PR #585", Rules: everywhere, Lifted: []string{"--allow", Shop.String() + ":853"},
			Attack: func(a *Attacker) error { return a.tellTLS(at(Shop, 853), "shop.example") },
			Harm:   Heard, Record: []string{deny + "dest_ip=198.51.100.10 dest_port=853 protocol=tcp"},
		},
		{
			ID: "dns/doq", Vector: "DNS over QUIC", Right: "the same for UDP",
			Source: "nDPI doq.pcapng, zeek quicdoq.pcap, microsandbox PR #585", Rules: everywhere, Lifted: []string{"--allow", Shop.String() + ":853"},
			Attack: func(a *Attacker) error { return a.tellQUIC(nil, at(Shop, 853), "shop.example") },
			Harm:   Heard, Record: []string{deny + "dest_ip=198.51.100.10 dest_port=853 protocol=udp"},
		},
		{
			ID: "dns/doh-name", Vector: "DNS over HTTPS by the name of a known resolver", Right: "neither its name nor its address is covered by a wide rule",
			Source: "nDPI doh.pcapng, sandy #154, microsandbox docs", Rules: everywhere, Lifted: []string{"--allow", "dns.google"},
			Attack: visit("dns.google", Google), Harm: Heard,
			Record: []string{"dns-query hostname=dns.google verdict=deny reason=encrypted-dns", deny + "dest_ip=8.8.8.8 dest_port=443"},
		},
		{
			ID: "dns/doh-address", Vector: "DNS over HTTPS by the address of a known resolver, without a name", Right: "known by its address as well",
			Source: "harden-runner GHSA-46g3-37rh-v698", Rules: everywhere, Lifted: []string{"--allow", "8.8.8.8:443"},
			Attack: func(a *Attacker) error { return a.tellTLS(at(Google, 443), "") },
			Harm:   Heard, Record: []string{deny + "dest_ip=8.8.8.8 dest_port=443 protocol=tcp"},
		},
		{
			ID: "dns/doh-elsewhere", Vector: "the name of a known resolver at an address that nobody knows", Right: "the claim is enough to deny",
			Source: "security.md 2.2", Rules: everywhere, Lifted: strangerToo, Prepare: Stranger,
			Attack: func(a *Attacker) error { return a.tellTLS(a.stranger(443), "dns.google") },
			Harm:   Heard, Record: []string{deny + "dest_ip={stranger} sni=dns.google"},
		},
		{
			ID: "dns/doh-quic", Vector: "DNS over HTTP/3", Right: "the same for QUIC",
			Source: "security.md 2.2", Rules: everywhere, Lifted: []string{"--allow", "8.8.8.8:443"},
			Attack: func(a *Attacker) error { return a.tellQUIC(nil, at(Google, 443), "dns.google") },
			Harm:   Heard, Record: []string{deny + "dest_ip=8.8.8.8 dest_port=443 protocol=udp"},
		},
	}
}

// multicastRows ask everybody on the host's network.
func multicastRows() []Row {
	row := func(id, vector, source, address, record string) Row {
		return Row{
			ID: "dns/" + id, Vector: vector, Right: "what is for everybody on the network does not leave the sandbox", Source: source, Rules: []string{"--mode", "enforce", "--allow", "@any:*"},
			Attack: func(a *Attacker) error { return a.shout(address) },
			Harm:   Heard, Record: []string{record},
		}
	}
	return []Row{
		row("mdns", "multicast DNS", "zeek dns/mdns, microsandbox PR #585", "224.0.0.251:5353", "dropped what=drop-multicast"),
		row("llmnr6", "LLMNR over IPv6", "nDPI LLMNR rows", "[ff02::1:3%]:5355", "dropped what=drop-multicast"),
		row("nbns", "a NetBIOS name by broadcast to the host's own network", "microsandbox", "192.0.2.255:137", "network-connect verdict=deny dest_ip=192.0.2.255 reason=guard"),
		row("broadcast", "a broadcast to whatever network there is", "security.md 2.2", "255.255.255.255:137", "dropped what=drop-foreign-mac"),
	}
}

// shout says the token in one datagram; % stands for the first interface that is not the loopback.
func (a *Attacker) shout(address string) error {
	ifaces, err := net.Interfaces()
	if err != nil {
		return err
	}
	for _, i := range ifaces {
		if i.Flags&net.FlagLoopback == 0 {
			address = strings.Replace(address, "%", "%"+i.Name, 1)
			break
		}
	}
	c, err := net.Dial("udp", address)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Write([]byte(a.Token))
	return err
}
