//go:build linux

package gauntlet

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/weir-dev/weir/internal/playground"
)

// The world's addresses. Everything that is said to a server on any of these ports is remembered:
//
//	80, 7         plain TCP: answers "heard" to what it is told first
//	443, 853      TLS for any name, the same inside; QUIC likewise (ALPN "gauntlet")
//	8443          TLS that asks for another key share first
//	5432          the same as 80, or TLS for one who begins like a PostgreSQL client
//	7             UDP: sends back what it gets
//	25            speaks first ("220 ready"), STARTTLS after the client has said so
//	3128          an HTTP proxy that accepts CONNECT to anywhere, and hears what comes after
//	9000          a collector, see logRows
//	53            DNS: every name has this address
var (
	Shop    = netip.MustParseAddr("198.51.100.10") // shop.example, allowed by StandardRules; sibling.example shares it
	Shop6   = netip.MustParseAddr("2001:db8:1::10")
	Other   = netip.MustParseAddr("198.51.100.11") // other.example
	Evil    = netip.MustParseAddr("203.0.113.66")  // evil.example, allowed by nobody
	Evil6   = netip.MustParseAddr("2001:db8:1::66")
	Private = netip.MustParseAddr("10.1.2.3")        // db.corp.example, in the host's private network
	Meta    = netip.MustParseAddr("169.254.169.254") // the cloud's metadata server, metadata.google.internal
	// Metadata servers of clouds that have them elsewhere, and a neighbour on the host's link.
	MetaAlibaba = netip.MustParseAddr("100.100.100.200")
	Meta6       = netip.MustParseAddr("fd00:ec2::254")
	LinkLocal   = netip.MustParseAddr("169.254.7.7")
	// Router is the host's own gateway. It has a service on port 8080.
	Router = netip.MustParseAddr("192.0.2.1")

	Google = netip.MustParseAddr("8.8.8.8") // dns.google
)

// Listeners of the host itself. Both hear.
const (
	HostLoopbackPort = 7007 // on 127.0.0.1 and ::1
	HostAnyPort      = 7009 // on every address of the host
)

const collectorPort = 9000

// World is the playground with servers that remember what they hear.
type World struct {
	*playground.World

	ech []tls.EncryptedClientHelloKey // of every TLS server
	// ECHConfig is the list that a client needs to hide its server name from everybody but them.
	ECHConfig []byte

	mu        sync.Mutex
	heard     map[netip.Addr]*bytes.Buffer
	dialled   map[netip.Addr]int
	collected []string // names in hellos, requests and questions, and what agents report
	last      byte     // of the addresses of strangers
}

// openWorld makes it. The process has to be in the playground.
func openWorld() (*World, error) {
	p, err := playground.Open()
	if err != nil {
		return nil, err
	}
	w := &World{World: p, heard: map[netip.Addr]*bytes.Buffer{}, dialled: map[netip.Addr]int{}}
	p.Overhear(func(raw []byte) {
		w.collectQuestion(raw)
		w.hear(&net.UDPAddr{IP: playground.DNSServer.AsSlice()}, nil, raw)
	})
	errs := []error{
		w.makeECH(), w.hearNeighbours(),
		w.Name("use-application-dns.net", Other), w.Record(`_dns.resolver.arpa. 60 IN SVCB 1 dns.google. alpn="h2"`),
		w.Record(`shop.example. 60 IN HTTPS 1 . alpn="h2" ech="AAAA"`),
		w.Name("metadata.google.internal", Meta), w.Name("dns.google", Google),
		w.Name("shop.example", Shop, Shop6), w.Name("sibling.example", Shop), w.Name("other.example", Other),
		w.Name("evil.example", Evil, Evil6), w.Name("db.corp.example", Private), w.Name("rebind.example", Private),
		w.Record("www.shop.example. 60 IN CNAME shop.example."),
		w.Record("cloaked.example. 60 IN CNAME tracker.evil.example."), w.Name("tracker.evil.example", Other),
	}
	for _, a := range []netip.Addr{Shop, Shop6, Other, Evil, Evil6, Private, Meta, MetaAlibaba, Meta6, LinkLocal, Google} {
		errs = append(errs, w.populate(a))
	}
	for _, c := range embedded() {
		_, err := w.serve(netip.AddrPortFrom(c.address, 80), w.answer)
		errs = append(errs, err)
	}
	_, err = w.serve(netip.AddrPortFrom(Router, 8080), w.answer)
	if err := errors.Join(append(errs, err, w.populateHost())...); err != nil {
		p.Close()
		return nil, err
	}
	return w, nil
}

// populate opens every server on one address.
func (w *World) populate(a netip.Addr) error {
	var errs []error
	for port, answer := range map[uint16]func(net.Conn){
		7: w.answer, 80: w.answer, 443: w.answerTLS, 853: w.answerTLS, 8443: w.answerRetry,
		collectorPort: w.answerCollector, 5432: w.answerPostgres, 25: w.answerMail, 3128: w.answerProxy,
	} {
		_, err := w.serve(netip.AddrPortFrom(a, port), answer)
		errs = append(errs, err)
	}
	return errors.Join(append(errs, w.serveUDP(netip.AddrPortFrom(a, 7)), w.serveLies(netip.AddrPortFrom(a, 53)),
		w.serveQUIC(netip.AddrPortFrom(a, 443)), w.serveQUIC(netip.AddrPortFrom(a, 853)))...)
}

// stranger opens the TCP servers of the web on an address that nobody else has until the closers are called. There is no
// name for it.
func (w *World) stranger() (netip.Addr, []io.Closer, error) {
	w.mu.Lock()
	w.last++
	a := netip.AddrFrom4([4]byte{203, 0, 113, 128 + w.last%64})
	delete(w.dialled, a)
	w.mu.Unlock()
	web, err := w.serve(netip.AddrPortFrom(a, 80), w.answer)
	if err != nil {
		return a, nil, err
	}
	tls, err := w.serve(netip.AddrPortFrom(a, 443), w.answerTLS)
	return a, []io.Closer{web, tls}, err
}

func (w *World) populateHost() error {
	for _, at := range []string{fmt.Sprintf("127.0.0.1:%d", HostLoopbackPort), fmt.Sprintf("[::1]:%d", HostLoopbackPort), fmt.Sprintf(":%d", HostAnyPort)} {
		ln, err := net.Listen("tcp", at)
		if err != nil {
			return err
		}
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				go w.answer(c)
			}
		}()
	}
	return nil
}

// HearAll reads c to its end and remembers every octet.
func (w *World) HearAll(c net.Conn) { drain(&listening{Conn: c, w: w}) }

// hear remembers what the server at this address was told, the end of what it heard before in front of it, and returns the
// end of what it has heard now.
func (w *World) hear(at net.Addr, tail, what []byte) []byte {
	var a netip.Addr
	switch at := at.(type) {
	case *net.TCPAddr:
		a = at.AddrPort().Addr().Unmap()
	case *net.UDPAddr:
		a = at.AddrPort().Addr().Unmap()
	}
	text := slices.Concat(tail, what)
	w.mu.Lock()
	defer w.mu.Unlock()
	b := w.heard[a]
	if b == nil {
		b = new(bytes.Buffer)
		w.heard[a] = b
	}
	b.Write(text)
	b.WriteByte('\n')
	return text[max(0, len(text)-64):]
}

// Heard reports whether any server was told the token, the DNS server as part of a question.
func (w *World) Heard(token string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, b := range w.heard {
		if bytes.Contains(b.Bytes(), []byte(token)) {
			return true
		}
	}
	return false
}

// HeardAt reports whether a server at this address was told the text.
func (w *World) HeardAt(a netip.Addr, text string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	b := w.heard[a]
	return b != nil && bytes.Contains(b.Bytes(), []byte(text))
}

// Dialled returns how many TCP connections the servers at this address have accepted.
func (w *World) Dialled(a netip.Addr) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.dialled[a]
}

// Asked reports whether a question that contains the text, in whatever case, reached the DNS server.
func (w *World) Asked(text string) bool {
	text = strings.ToLower(text)
	for _, q := range w.Queries() {
		if strings.Contains(q, text) {
			return true
		}
	}
	return false
}
