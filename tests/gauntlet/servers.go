//go:build linux

package gauntlet

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/tls"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
	"github.com/quic-go/quic-go"
)

// serve hands every TCP connection to answer, and counts it.
func (w *World) serve(at netip.AddrPort, answer func(net.Conn)) (io.Closer, error) {
	ln, err := w.Listen(at)
	if err != nil {
		return nil, err
	}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			w.mu.Lock()
			w.dialled[at.Addr()]++
			w.mu.Unlock()
			go answer(&listening{Conn: c, w: w})
		}
	}()
	return ln, nil
}

// listening is a connection whose every octet is heard, whatever its server makes of it.
type listening struct {
	net.Conn
	w    *World
	tail []byte // a token may lie across two reads
}

func (l *listening) Read(b []byte) (int, error) {
	n, err := l.Conn.Read(b)
	if n > 0 {
		l.tail = l.w.hear(l.LocalAddr(), l.tail, b[:n])
	}
	return n, err
}

// overhearing is a packet socket whose every datagram is heard.
type overhearing struct {
	net.PacketConn
	w *World
}

func (o overhearing) ReadFrom(b []byte) (int, net.Addr, error) {
	n, from, err := o.PacketConn.ReadFrom(b)
	if n > 0 {
		o.w.hear(o.LocalAddr(), nil, b[:n])
	}
	return n, from, err
}

// drain reads to the end.
func drain(c net.Conn) {
	io.Copy(io.Discard, c)
	c.Close()
}

// answer says "heard" to the first bytes and listens to the end.
func (w *World) answer(c net.Conn) {
	if _, ok := c.(*listening); !ok {
		c = &listening{Conn: c, w: w}
	}
	defer drain(c)
	c.SetDeadline(time.Now().Add(patience))
	b := make([]byte, 4096)
	n, _ := c.Read(b)
	if _, rest, found := strings.Cut(string(b[:n]), "\r\nHost: "); found {
		host, _, _ := strings.Cut(rest, "\r\n")
		w.collect(host)
	}
	if n > 0 {
		io.WriteString(c, "heard\n")
	}
}

func (w *World) answerTLS(c net.Conn) {
	conf := w.TLSConfig()
	conf.EncryptedClientHelloKeys = w.ech
	w.answerTLSWith(c, conf)
}

// answerCollector writes down all that one client says.
func (w *World) answerCollector(c net.Conn) {
	c.SetDeadline(time.Now().Add(patience))
	text, _ := io.ReadAll(io.LimitReader(c, 1<<20))
	w.collect(string(text))
	c.Close()
}

// collect remembers a name, or what an agent reports.
func (w *World) collect(text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.collected = append(w.collected, text)
}

// collectQuestion remembers the name in a DNS message, label by label, as it is.
func (w *World) collectQuestion(raw []byte) {
	const header = 12
	var labels []string
	for raw = raw[min(header, len(raw)):]; len(raw) > 0 && raw[0] > 0 && int(raw[0]) < len(raw); raw = raw[1+raw[0]:] {
		labels = append(labels, string(raw[1:1+raw[0]]))
	}
	w.collect(strings.Join(labels, "."))
}

// collectedWith returns what was collected that has the token in it, or its mirror image.
func (w *World) collectedWith(token string) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(w.collected), func(text string) bool {
		return !strings.Contains(text, token) && !strings.Contains(text, mirrored(token))
	})
}

// answerTLSWith says what goes on inside TLS, too; where there is no handshake it listens all the same.
func (w *World) answerTLSWith(c net.Conn, conf *tls.Config) {
	c.SetDeadline(time.Now().Add(patience))
	conf.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		w.collect(hello.ServerName)
		return nil, nil
	}
	t := tls.Server(c, conf)
	if t.Handshake() != nil {
		io.WriteString(c, "heard\n")
		drain(c)
		return
	}
	w.hear(c.LocalAddr(), nil, []byte("sni "+t.ConnectionState().ServerName))
	w.answer(&listening{Conn: t, w: w})
}

// answerRetry is TLS that wants another key share first (a HelloRetryRequest).
func (w *World) answerRetry(c net.Conn) {
	conf := w.TLSConfig()
	conf.CurvePreferences = []tls.CurveID{tls.CurveP521}
	w.answerTLSWith(c, conf)
}

// answerMail is a server that speaks first and goes over to TLS when told so.
func (w *World) answerMail(c net.Conn) {
	c.SetDeadline(time.Now().Add(patience))
	io.WriteString(c, "220 ready\r\n")
	b := make([]byte, 4096)
	n, _ := c.Read(b)
	io.WriteString(c, "220 go ahead\r\n")
	if strings.HasPrefix(string(b[:n]), "STARTTLS") {
		w.answerTLS(&replay{Conn: c, first: bytes.TrimPrefix(b[:n], []byte("STARTTLS\r\n"))})
		return
	}
	drain(c)
}

// replay is a connection of which some octets were read already.
type replay struct {
	net.Conn
	first []byte
}

func (r *replay) Read(b []byte) (int, error) {
	if len(r.first) == 0 {
		return r.Conn.Read(b)
	}
	n := copy(b, r.first)
	r.first = r.first[n:]
	return n, nil
}

// answerPostgres says no to GSSENCRequest, yes to SSLRequest, and is a plain server to everybody else.
func (w *World) answerPostgres(c net.Conn) {
	c.SetDeadline(time.Now().Add(patience))
	b := make([]byte, 4096)
	for {
		n, err := c.Read(b)
		switch {
		case err != nil:
			c.Close()
			return
		case bytes.HasPrefix(b[:n], gssRequest):
			io.WriteString(c, "N")
		case bytes.HasPrefix(b[:n], sslRequest):
			io.WriteString(c, "S")
			w.answerTLS(&replay{Conn: c, first: bytes.Clone(b[len(sslRequest):n])})
			return
		default:
			io.WriteString(c, "heard\n")
			drain(c)
			return
		}
	}
}

// The requests with which a PostgreSQL client begins.
var (
	sslRequest = []byte{0, 0, 0, 8, 4, 210, 22, 47}
	gssRequest = []byte{0, 0, 0, 8, 4, 210, 22, 48}
)

// answerProxy says yes to any CONNECT and hears what comes after.
func (w *World) answerProxy(c net.Conn) {
	defer drain(c)
	c.SetDeadline(time.Now().Add(patience))
	if n, _ := c.Read(make([]byte, 4096)); n > 0 {
		io.WriteString(c, "HTTP/1.1 200 Connection established\r\n\r\n")
	}
}

func (w *World) serveUDP(at netip.AddrPort) error {
	pc, err := w.ListenPacket(at)
	if err != nil {
		return err
	}
	go w.echo(pc)
	return nil
}

func (w *World) echo(socket net.PacketConn) {
	pc, b := overhearing{socket, w}, make([]byte, 65535)
	for {
		n, from, err := pc.ReadFrom(b)
		if err != nil {
			return
		}
		pc.WriteTo(b[:n], from)
	}
}

// serveQUIC hears datagrams, server names, and streams.
func (w *World) serveQUIC(at netip.AddrPort) error {
	pc, err := w.ListenPacket(at)
	if err != nil {
		return err
	}
	conf := w.TLSConfig()
	conf.NextProtos = []string{"gauntlet", "h3", "doq"}
	ln, err := quic.Listen(overhearing{pc, w}, conf, nil)
	if err != nil {
		return err
	}
	go func() {
		for {
			c, err := ln.Accept(context.Background())
			if err != nil {
				return
			}
			w.hear(pc.LocalAddr(), nil, []byte("sni "+c.ConnectionState().TLS.ServerName))
			go w.answerStreams(c)
		}
	}()
	return nil
}

func (w *World) answerStreams(c *quic.Conn) {
	for {
		s, err := c.AcceptStream(context.Background())
		if err != nil {
			return
		}
		go func() {
			b := make([]byte, 4096)
			n, _ := s.Read(b)
			w.hear(c.LocalAddr(), nil, b[:n])
			io.WriteString(s, "heard\n")
			s.Close()
		}()
	}
}

// serveLies is a DNS server that says of every name that its address is this one.
func (w *World) serveLies(at netip.AddrPort) error {
	pc, err := w.ListenPacket(at)
	if err != nil {
		return err
	}
	ln, err := w.Listen(at)
	if err != nil {
		return err
	}
	lie := dns.HandlerFunc(func(rw dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		if len(q.Question) == 1 && q.Question[0].Qtype == dns.TypeA && at.Addr().Is4() {
			m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 3600}, A: at.Addr().AsSlice()}}
		}
		rw.WriteMsg(m)
	})
	go (&dns.Server{PacketConn: overhearing{pc, w}, Handler: lie}).ActivateAndServe()
	go (&dns.Server{Listener: overheard{ln, w}, Handler: lie}).ActivateAndServe()
	return nil
}

// overheard is a listener whose connections are heard.
type overheard struct {
	net.Listener
	w *World
}

func (o overheard) Accept() (net.Conn, error) {
	c, err := o.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &listening{Conn: c, w: o.w}, nil
}

// hearNeighbours hears what the host says to everybody at the other end of its uplink.
func (w *World) hearNeighbours() error {
	return w.Internet(func() error {
		everybody, err := net.ListenPacket("udp4", ":137") // gets broadcasts, too
		if err != nil {
			return err
		}
		go w.listen(everybody)
		ifaces, err := net.Interfaces()
		if err != nil {
			return err
		}
		for _, i := range ifaces {
			if i.Flags&net.FlagLoopback != 0 {
				continue
			}
			for group, network := range map[string]string{"224.0.0.251:5353": "udp4", "[ff02::1:3]:5355": "udp6"} {
				pc, err := net.ListenMulticastUDP(network, &i, net.UDPAddrFromAddrPort(netip.MustParseAddrPort(group)))
				if err != nil {
					return err
				}
				go w.listen(pc)
			}
		}
		return nil
	})
}

// listen hears datagrams and answers none.
func (w *World) listen(socket net.PacketConn) {
	pc, b := overhearing{socket, w}, make([]byte, 65535)
	for {
		if _, _, err := pc.ReadFrom(b); err != nil {
			return
		}
	}
}

// makeECH makes a key with which clients hide the name of a server behind that of shop.example (RFC 9849 section 4).
func (w *World) makeECH() error {
	key, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	public, name := key.PublicKey().Bytes(), "shop.example"
	contents := slices.Concat([]byte{7, 0, 0x20, 0, byte(len(public))}, public, []byte{0, 4, 0, 1, 0, 1, 0, byte(len(name))}, []byte(name), []byte{0, 0})
	config := slices.Concat([]byte{0xfe, 0x0d, 0, byte(len(contents))}, contents)
	w.ECHConfig = slices.Concat([]byte{0, byte(len(config))}, config)
	w.ech = []tls.EncryptedClientHelloKey{{Config: config, PrivateKey: key.Bytes(), SendAsRetry: true}}
	return nil
}
