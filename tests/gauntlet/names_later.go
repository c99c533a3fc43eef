//go:build linux

package gauntlet

import (
	"errors"
	"io"
	"net"
	"slices"
	"time"
)

// laterRows turn to TLS, or say a second hello, after the flow was judged.
func laterRows() []Row {
	mail := []string{"--allow", "shop.example:25"}
	mailToo := []string{"--allow", "shop.example:25", "--allow", "sibling.example:25"}
	database := []string{"--allow", "shop.example:5432"}
	databaseToo := []string{"--allow", "shop.example:5432", "--allow", "sibling.example:5432"}
	return []Row{
		{
			ID: "names/starttls", Vector: "STARTTLS with an allowed host, then a hello with another name", Right: "the late hello is judged before it leaves",
			Source: "zeek smtp/imap/pop3 starttls captures", Rules: mail, Lifted: mailToo,
			Attack: func(a *Attacker) error {
				c, err := a.atShop(25)
				if err != nil {
					return err
				}
				defer c.Close()
				if err := errors.Join(hears(c), say(c, []byte("STARTTLS\r\n"))); err != nil {
					return err
				}
				return a.overTLS(c, "sibling.example")
			},
			Harm: Heard, Record: []string{lateHello},
		},
		{
			ID: "names/starttls-pipelined", Vector: "STARTTLS and the hello in one segment", Right: "the hello is found wherever it begins",
			Source: "the class of CVE-2011-0411", Rules: mail, Lifted: mailToo,
			Attack: func(a *Attacker) error {
				c, err := a.atShop(25)
				if err != nil {
					return err
				}
				defer c.Close()
				if err := hears(c); err != nil {
					return err
				}
				return say(c, append([]byte("STARTTLS\r\n"), records(clientHello(serverName("sibling.example"), alpn(a.Token)), oneRecord)...))
			},
			Harm: Heard, Record: []string{mismatch},
		},
		{
			ID: "names/postgres", Vector: "a PostgreSQL SSLRequest, then a hello with another name", Right: "the hello is judged",
			Source: "zeek postgresql captures", Rules: database, Lifted: databaseToo,
			Attack: func(a *Attacker) error { return a.postgres(sslRequest) },
			Harm:   Heard, Record: []string{lateHello},
		},
		{
			ID: "names/postgres-gss", Vector: "a GSSENCRequest first, then SSLRequest, then that hello", Right: "each turn is followed",
			Source: "security.md 2.3", Rules: database, Lifted: databaseToo,
			Attack: func(a *Attacker) error { return a.postgres(gssRequest, sslRequest) },
			Harm:   Heard, Record: []string{lateHello},
		},
	}
}

// behindRows say a second hello where the first was judged.
func behindRows() []Row {
	return []Row{
		{
			ID: "names/hello-retry", Vector: "the second hello, after a HelloRetryRequest, has another name", Right: "it must name what the first did",
			Source: "zeek hrr.pcap, RFC 8446 4.1.2", Rules: []string{"--allow", "shop.example:8443"}, Lifted: []string{"--allow", "shop.example:8443", "--allow", "sibling.example:8443"},
			Attack: func(a *Attacker) error {
				c, err := a.atShop(8443)
				if err != nil {
					return err
				}
				defer c.Close()
				if err := say(c, records(clientHello(serverName("shop.example"), modern()), oneRecord)); err != nil {
					return err
				}
				return say(c, records(clientHello(serverName("sibling.example"), modern(), alpn(a.Token)), oneRecord))
			},
			Harm: Heard, Record: []string{lateHello},
		},
		{
			ID: "names/hello-behind-hello", Vector: "both hellos in one segment", Right: "what lies behind the first is read as well",
			Source: "the gauntlet", Rules: shopOnly, Lifted: siblingToo,
			Attack: func(a *Attacker) error {
				first, second := clientHello(serverName("shop.example"), modern()), clientHello(serverName("sibling.example"), modern(), alpn(a.Token))
				return a.sayAtShop(443, slices.Concat(records(first, oneRecord), records(second, oneRecord)))
			},
			Harm: Heard, Record: []string{mismatch},
		},
		{
			ID: "names/hello-in-record", Vector: "both hellos in one record, where the second has no header to be known by", Right: "denied",
			Source: "the gauntlet", Rules: shopOnly, Lifted: shopAddressToo,
			Attack: func(a *Attacker) error {
				first, second := clientHello(serverName("shop.example"), modern()), clientHello(serverName("sibling.example"), modern(), alpn(a.Token))
				return a.sayAtShop(443, records(slices.Concat(first, second), oneRecord))
			},
			Harm: Heard, Record: []string{malformed},
		},
		{
			ID: "names/hello-open-record", Vector: "a hello of another name in a record that says that it goes on, and waits", Right: "judged when the hello is whole, not when the record is",
			Source: "the gauntlet", Rules: shopOnly, Lifted: shopAddressToo,
			Attack: func(a *Attacker) error {
				raw := records(clientHello(serverName("sibling.example"), alpn(a.Token)), oneRecord)
				raw[4]++
				c, err := a.atShop(443)
				if err != nil {
					return err
				}
				defer c.Close()
				_, err = c.Write(raw)
				time.Sleep(moment)
				return err
			},
			Harm: Heard, Record: []string{mismatch + " sni=sibling.example"},
		},
		{
			ID: "names/hello-behind-request", Vector: "an HTTP request that asks for TLS (RFC 2817), the hello in the same segment", Right: "what lies behind the head is read as well",
			Source: "the gauntlet", Rules: shopOnly, Lifted: siblingToo,
			Attack: func(a *Attacker) error {
				head := "OPTIONS * HTTP/1.1\r\nHost: shop.example\r\nUpgrade: TLS/1.0\r\nConnection: Upgrade\r\n\r\n"
				return a.sayAtShop(80, append([]byte(head), records(clientHello(serverName("sibling.example"), alpn(a.Token)), oneRecord)...))
			},
			Harm: Heard, Record: []string{mismatch},
		},
		{
			ID: "names/hello-behind-ssh", Vector: "a line of SSH, for a server that shares its port between protocols, and a hello behind it", Right: "a protocol that says no name ends no watch",
			Source: "the gauntlet", Rules: shopOnly, Lifted: siblingToo,
			Attack: func(a *Attacker) error {
				return a.sayAtShop(443, append([]byte("SSH-2.0-x\r\n"), records(clientHello(serverName("sibling.example"), alpn(a.Token)), oneRecord)...))
			},
			Harm: Heard, Record: []string{mismatch},
		},
		{
			ID: "names/proxy-protocol", Vector: "a PROXY protocol header before the hello, as servers behind balancers take it", Right: "the hello behind it is judged",
			Source: "security.md 5", Rules: shopOnly, Lifted: siblingToo,
			Attack: func(a *Attacker) error {
				return a.sayAtShop(443, append([]byte("PROXY TCP4 192.0.2.2 198.51.100.10 40000 443\r\n"), records(clientHello(serverName("sibling.example"), alpn(a.Token)), oneRecord)...))
			},
			Harm: Heard, Record: []string{mismatch},
		},
	}
}

// hears waits for what a server says first.
func hears(c net.Conn) error {
	_, err := c.Read(make([]byte, 256))
	return err
}

// postgres makes the requests one after the other, and then says hello under another name than the address was looked up by.
func (a *Attacker) postgres(requests ...[]byte) error {
	c, err := a.atShop(5432)
	if err != nil {
		return err
	}
	defer c.Close()
	for _, r := range requests {
		if _, err := c.Write(r); err != nil {
			return err
		}
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			return err
		}
	}
	return a.overTLS(c, "sibling.example")
}
