//go:build linux

package gauntlet

import (
	"errors"
	"net"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// helloRows hide a name in a ClientHello that two parsers could read in two ways, or in the way it is cut.
func helloRows() []Row {
	return []Row{
		{
			ID: "names/sni-two", Vector: "two names in server_name, the allowed one first", Right: "servers differ in which they take: denied",
			Source: "security.md 2.3", Rules: shopOnly, Lifted: shopAddressToo,
			Attack: helloAtShop(serverName("shop.example", "sibling.example")),
			Harm:   Heard, Record: []string{malformed},
		},
		{
			ID: "names/sni-twice", Vector: "the extension server_name twice", Right: "denied",
			Source: "suricata tls-duplicate-hello", Rules: shopOnly, Lifted: shopAddressToo,
			Attack: helloAtShop(serverName("shop.example"), serverName("sibling.example")),
			Harm:   Heard, Record: []string{malformed},
		},
		{
			ID: "names/sni-other-type", Vector: "a name of another type before the host name, where some parsers look for the first", Right: "denied",
			Source: "security.md 2.3", Rules: shopOnly, Lifted: shopAddressToo,
			Attack: helloAtShop(extension(0, vec16(append([]byte{1, 0, 12, 's', 'h', 'o', 'p', '.', 'e', 'x', 'a', 'm', 'p', 'l', 'e', 0}, vec16([]byte("sibling.example")...)...)...)...)),
			Harm:   Heard, Record: []string{malformed},
		},
		{
			ID: "names/sni-empty", Vector: "a server_name without a name, which servers take for none and parsers for what they like", Right: "denied",
			Source: "security.md 2.3", Rules: shopOnly, Lifted: shopAddressToo,
			Attack: helloAtShop(extension(0, vec16()...)),
			Harm:   Heard, Record: []string{malformed},
		},
		{
			ID: "names/sni-nul", Vector: "evil.example NUL .shop.example under a wildcard rule: ends in one language, goes on in the other", Right: "refused, not repaired",
			Source: "sandbox-runtime, NUL in a SOCKS host name; OpenShell #1498",
			Rules:  []string{"--allow", "shop.example", "--allow", "*.shop.example"}, Lifted: shopAddressToo,
			Attack: helloAtShop(serverName("evil.example\x00.shop.example")),
			Harm:   Heard, Record: []string{malformed},
		},
		{
			ID: "names/sni-homograph", Vector: "a Cyrillic letter in raw UTF-8 instead of an A-label", Right: "only LDH names are names",
			Source: "security.md 2.1", Rules: shopOnly, Lifted: shopAddressToo,
			Attack: helloAtShop(serverName("\u0455hop.example")),
			Harm:   Heard, Record: []string{malformed},
		},
	}
}

// cutRows cut a ClientHello, or put something in its way.
func cutRows() []Row {
	return []Row{
		{
			ID: "names/hello-octets", Vector: "the hello of another name, one octet per segment", Right: "read as if it came at once",
			Source: "gobetween #342, caddy-l4 #346, haproxy #3148", Rules: shopOnly, Lifted: siblingToo,
			Attack: func(a *Attacker) error {
				c, err := a.atShop(443)
				if err != nil {
					return err
				}
				defer c.Close()
				return a.overTLS(cut{c, 1}, "sibling.example")
			},
			Harm: Heard, Record: []string{mismatch + " sni=sibling.example"},
		},
		{
			ID: "names/hello-records", Vector: "the same, over TLS records of 16 octets", Right: "records are joined before anything is read",
			Source: "DPYProxy #2, curl-impersonate #271", Rules: shopOnly, Lifted: siblingToo,
			Attack: func(a *Attacker) error {
				c, err := a.atShop(443)
				if err != nil {
					return err
				}
				defer c.Close()
				return a.overTLS(recut{c, 16}, "sibling.example")
			},
			Harm: Heard, Record: []string{mismatch + " sni=sibling.example"},
		},
		{
			ID: "names/hello-empty-record", Vector: "an empty record in the middle of the hello", Right: "some servers pass over it: denied",
			Source: "tlsfuzzer test-record-layer-fragmentation", Rules: shopOnly, Lifted: shopAddressToo,
			Attack: func(a *Attacker) error {
				hello := clientHello(serverName("sibling.example"), alpn(a.Token))
				return a.sayAtShop(443, slices.Concat(records(hello[:50], oneRecord), []byte{22, 3, 1, 0, 0}, records(hello[50:], oneRecord)))
			},
			Harm: Heard, Record: []string{malformed},
		},
		{
			ID: "names/hello-behind-alert", Vector: "a warning before the hello, which servers pass over", Right: "denied",
			Source: "flow/sniff", Rules: shopOnly, Lifted: shopAddressToo,
			Attack: func(a *Attacker) error {
				hello := records(clientHello(serverName("sibling.example"), alpn(a.Token)), oneRecord)
				return a.sayAtShop(443, append([]byte{21, 3, 1, 0, 2, 1, 90}, hello...))
			},
			Harm: Heard, Record: []string{malformed},
		},
	}
}

// oversizeRows say a hello that is larger or slower than anybody reads.
func oversizeRows() []Row {
	return []Row{
		{
			ID: "names/hello-huge", Vector: "a hello of 40 KiB in three records, the name at its end", Right: "read to its end",
			Source: "nDPI tls_with_huge_ch, tldr.fail", Rules: shopOnly, Lifted: siblingToo,
			Attack: helloAtShopCut(padding(40<<10), serverName("sibling.example")),
			Harm:   Heard, Record: []string{mismatch + " sni=sibling.example"},
		},
		{
			ID: "names/hello-endless", Vector: "a hello larger than any parser keeps, the name behind the last octet it looks at", Right: "what is not read is not believed: denied",
			Source: "tlsfuzzer test-client-hello-max-size", Rules: shopOnly, Lifted: shopAddressToo,
			Attack: helloAtShopCut(padding(60<<10), extension(0xfafa, make([]byte, 30<<10)...), serverName("sibling.example")),
			Harm:   Heard, Record: []string{malformed},
		},
		{
			ID: "names/hello-slow", Vector: "the end of the hello comes after the deadline for a claim", Right: "judged when it is whole: its end does not leave",
			Source: "security.md 2.3, 2.6", Rules: shopOnly, Lifted: nil,
			Attack: func(a *Attacker) error {
				c, err := a.atShop(443)
				if err != nil {
					return err
				}
				defer c.Close()
				hello := records(clientHello(serverName("sibling.example"), alpn(a.Token)), oneRecord)
				end := len(hello) - len(a.Token)
				if _, err := c.Write(hello[:end]); err != nil {
					return err
				}
				time.Sleep(3200 * time.Millisecond)
				return say(c, hello[end:])
			},
			Harm: Heard, Record: []string{lateHello},
		},
		{
			ID: "names/hello-urgent", Vector: "an octet of urgent data inside the hello, which a server never sees and a parser might", Right: "what is read is what is sent on",
			Source: "libslirp CVE-2026-9539, security.md 2.3", Rules: shopOnly, Lifted: nil,
			Attack: func(a *Attacker) error {
				c, err := a.atShop(443)
				if err != nil {
					return err
				}
				defer c.Close()
				return a.overTLS(urgent{c, 60}, "sibling.example")
			},
			Harm: Heard, Record: []string{"network-connect verdict=deny dest_ip=198.51.100.10"},
		},
	}
}

// helloAtShopCut is helloAtShop for a hello that needs more than one record.
func helloAtShopCut(extensions ...[]byte) func(*Attacker) error {
	return func(a *Attacker) error {
		hello := clientHello(slices.Concat(extensions, [][]byte{alpn(a.Token)})...)
		return a.sayAtShop(443, records(hello, oneRecord))
	}
}

// urgent sends one octet out of band in front of the one at n, once.
type urgent struct {
	net.Conn
	n int
}

func (u urgent) Write(b []byte) (int, error) {
	if len(b) <= u.n || b[0] != 22 {
		return u.Conn.Write(b)
	}
	if _, err := u.Conn.Write(b[:u.n]); err != nil {
		return 0, err
	}
	raw, err := u.Conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var sendErr error
	if err := raw.Write(func(fd uintptr) bool {
		sendErr = unix.Sendto(int(fd), []byte{'!'}, unix.MSG_OOB, nil)
		return true
	}); err != nil || sendErr != nil {
		return 0, errors.Join(err, sendErr)
	}
	n, err := u.Conn.Write(b[u.n:])
	return u.n + n, err
}
