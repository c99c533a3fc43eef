//go:build linux

package gauntlet

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/weir-dev/weir/internal/playground"
)

// The world's addresses. Everything that is said to a server on any of these ports is remembered:
//
//	80, 5432, 7   plain TCP: answers "heard" to what it is told first
//	443           TLS for any name, the same inside; QUIC likewise (ALPN "gauntlet")
//	7             UDP: sends back what it gets
//	25            speaks first ("220 ready"), STARTTLS after the client has said so
//	3128          an HTTP proxy that accepts CONNECT to anywhere, and hears what comes after
//	853           TLS
var (
	Shop    = netip.MustParseAddr("198.51.100.10") // shop.example, allowed by StandardRules; sibling.example shares it
	Shop6   = netip.MustParseAddr("2001:db8:1::10")
	Other   = netip.MustParseAddr("198.51.100.11") // other.example
	Evil    = netip.MustParseAddr("203.0.113.66")  // evil.example, allowed by nobody
	Evil6   = netip.MustParseAddr("2001:db8:1::66")
	Private = netip.MustParseAddr("10.1.2.3")        // db.corp.example, in the host's private network
	Meta    = netip.MustParseAddr("169.254.169.254") // the cloud's metadata server
)

// Listeners of the host itself. Both hear.
const (
	HostLoopbackPort = 7007 // on 127.0.0.1 and ::1
	HostAnyPort      = 7009 // on every address of the host
)

// World is the playground with servers that remember what they hear.
type World struct {
	*playground.World

	mu    sync.Mutex
	heard bytes.Buffer
}

// openWorld makes it. The process has to be in the playground.
func openWorld() (*World, error) {
	p, err := playground.Open()
	if err != nil {
		return nil, err
	}
	w := &World{World: p}
	errs := []error{
		w.Name("shop.example", Shop, Shop6), w.Name("sibling.example", Shop), w.Name("other.example", Other),
		w.Name("evil.example", Evil, Evil6), w.Name("db.corp.example", Private), w.Name("rebind.example", Private),
		w.Record("www.shop.example. 60 IN CNAME shop.example."),
		w.Record("cloaked.example. 60 IN CNAME tracker.evil.example."), w.Name("tracker.evil.example", Other),
	}
	for _, a := range []netip.Addr{Shop, Shop6, Other, Evil, Evil6, Private, Meta} {
		errs = append(errs, w.populate(a))
	}
	if err := errors.Join(append(errs, w.populateHost())...); err != nil {
		p.Close()
		return nil, err
	}
	return w, nil
}

// populate opens every server on one address.
func (w *World) populate(a netip.Addr) error {
	at := func(port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }
	return errors.Join(
		w.Serve(at(7), w.answer), w.Serve(at(80), w.answer), w.Serve(at(5432), w.answer),
		w.Serve(at(443), w.answerTLS), w.Serve(at(853), w.answerTLS),
		w.Serve(at(25), w.answerMail), w.Serve(at(3128), w.answerProxy),
		w.serveUDP(at(7)), w.serveQUIC(at(443)),
	)
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

// hear remembers what somebody was told.
func (w *World) hear(what []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.heard.Write(what)
	w.heard.WriteByte('\n')
}

// Heard reports whether any server was told the token, the DNS server as part of a question.
func (w *World) Heard(token string) bool {
	w.mu.Lock()
	heard := bytes.Contains(w.heard.Bytes(), []byte(token))
	w.mu.Unlock()
	return heard || w.Asked(token)
}

// Asked reports whether a question that contains the text reached the DNS server.
func (w *World) Asked(text string) bool {
	for _, q := range w.Queries() {
		if strings.Contains(q, text) {
			return true
		}
	}
	return false
}

// HearAll reads c to its end and remembers every byte.
func (w *World) HearAll(c io.Reader) {
	b := make([]byte, 4096)
	var tail []byte // a token may lie across two reads
	for {
		n, err := c.Read(b)
		if n > 0 {
			w.hear(append(tail, b[:n]...))
			tail = append([]byte(nil), b[max(0, n-64):n]...)
		}
		if err != nil {
			return
		}
	}
}

// answer says "heard" to the first bytes and listens to the end.
func (w *World) answer(c net.Conn) {
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	b := make([]byte, 4096)
	n, err := c.Read(b)
	w.hear(b[:n])
	if err != nil {
		return
	}
	io.WriteString(c, "heard\n")
	w.HearAll(c)
}

func (w *World) answerTLS(c net.Conn) {
	t := tls.Server(c, w.TLSConfig())
	if t.Handshake() == nil {
		w.hear([]byte("sni " + t.ConnectionState().ServerName))
	}
	w.answer(t)
}

// answerMail is a server that speaks first and goes over to TLS when told so.
func (w *World) answerMail(c net.Conn) {
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	io.WriteString(c, "220 ready\r\n")
	b := make([]byte, 4096)
	n, err := c.Read(b)
	w.hear(b[:n])
	if err != nil {
		return
	}
	io.WriteString(c, "220 go ahead\r\n")
	if strings.HasPrefix(string(b[:n]), "STARTTLS") {
		w.answerTLS(c)
		return
	}
	w.HearAll(c)
}

// answerProxy says yes to any CONNECT and hears what is sent through.
func (w *World) answerProxy(c net.Conn) {
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	b := make([]byte, 4096)
	n, err := c.Read(b)
	w.hear(b[:n])
	if err != nil {
		return
	}
	io.WriteString(c, "HTTP/1.1 200 Connection established\r\n\r\n")
	w.HearAll(c)
}

func (w *World) serveUDP(at netip.AddrPort) error {
	pc, err := w.ListenPacket(at)
	if err != nil {
		return err
	}
	go func() {
		b := make([]byte, 65535)
		for {
			n, from, err := pc.ReadFrom(b)
			if err != nil {
				return
			}
			w.hear(b[:n])
			pc.WriteTo(b[:n], from)
		}
	}()
	return nil
}

// serveQUIC hears the streams and the server names of QUIC connections.
func (w *World) serveQUIC(at netip.AddrPort) error {
	pc, err := w.ListenPacket(at)
	if err != nil {
		return err
	}
	conf := w.TLSConfig()
	conf.NextProtos = []string{"gauntlet", "h3"}
	ln, err := quic.Listen(pc, conf, nil)
	if err != nil {
		return err
	}
	go func() {
		for {
			c, err := ln.Accept(context.Background())
			if err != nil {
				return
			}
			w.hear([]byte("sni " + c.ConnectionState().TLS.ServerName))
			go func() {
				for {
					s, err := c.AcceptStream(context.Background())
					if err != nil {
						return
					}
					go func() {
						b := make([]byte, 4096)
						n, _ := s.Read(b)
						w.hear(b[:n])
						io.WriteString(s, "heard\n")
						s.Close()
					}()
				}
			}()
		}
	}()
	return nil
}
