//go:build linux

package tests

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/weir-dev/weir/internal/playground"
)

// The servers of the world. All of them are public addresses to the policy but db.corp.example's.
var (
	shop   = netip.MustParseAddr("198.51.100.10") // shop.example, www.shop.example: HTTP, HTTPS, HTTP/3
	shop6  = netip.MustParseAddr("2001:db8:1::10")
	other  = netip.MustParseAddr("198.51.100.11")  // other.example; also shares shop's address as sibling.example
	evil   = netip.MustParseAddr("203.0.113.66")   // evil.example
	tools  = netip.MustParseAddr("198.51.100.20")  // tools.example: the ports in populate; 9 is closed
	six    = netip.MustParseAddr("2001:db8:1::20") // six.example: echo 7 (tcp, udp)
	corp   = netip.MustParseAddr("10.1.2.3")       // db.corp.example, and the rebinding name rebind.example
	nobody = netip.MustParseAddr("198.51.100.99")  // an address of the world where nothing listens
)

func populate(w *playground.World) error {
	hello := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { fmt.Fprintf(rw, "hello from %s\n", r.Host) })
	at := netip.AddrPortFrom
	errs := []error{
		w.Name("shop.example", shop, shop6), w.Name("sibling.example", shop), w.Name("other.example", other),
		w.Name("evil.example", evil), w.Name("tools.example", tools), w.Name("db.corp.example", corp),
		w.Name("rebind.example", corp), w.Name("nobody.example", nobody), w.Name("six.example", six),
		w.Record("www.shop.example. 60 IN CNAME shop.example."),
		w.Record("cloaked.example. 60 IN CNAME tracker.evil.example."), w.Name("tracker.evil.example", other),
		w.Record(`big.example. 60 IN TXT "` + string(make255()) + `" "` + string(make255()) + `" "` + string(make255()) + `" "` + string(make255()) + `" "` + string(make255()) + `" "` + string(make255()) + `"`),
		w.Record(`_postgres._tcp.shop.example. 60 IN SRV 0 0 5432 tools.example.`),
		w.Record(`shop.example. 60 IN HTTPS 1 . alpn="h3,h2" ech="AAAA" ipv4hint=198.51.100.10`),
	}
	for _, a := range []netip.Addr{shop, shop6, other, evil, corp} {
		errs = append(errs, w.ServeHTTP(at(a, 80), hello), w.ServeHTTPS(at(a, 443), hello))
	}
	errs = append(errs,
		w.ServeHTTP3(at(shop, 443), hello),
		w.ServeEcho(at(tools, 7)), w.ServeEchoUDP(at(tools, 7)), w.ServeEcho(at(corp, 5432)),
		w.ServeEcho(at(six, 7)), w.ServeEchoUDP(at(six, 7)),
		w.Serve(at(tools, 6), sum), w.Serve(at(tools, 19), pour), w.Serve(at(tools, 21), goodbye), w.Serve(at(tools, 25), listener),
		w.Serve(at(shop, 853), func(c net.Conn) { t := tlsServer(c, w); io.Copy(t, t); c.Close() }),
		w.Serve(at(tools, 22), banner), w.Serve(at(tools, 9999), resetAfterRead), w.Serve(at(tools, 5432), pretendPostgres(w)),
	)
	return errors.Join(append(errs, populateHost(), populateCodeHost(w))...)
}

// Ports of the host itself. A sandbox may not reach them unasked.
const (
	loopbackPort = "7007" // echo on 127.0.0.1
	ownPort      = "7009" // echo on every address of the host
)

// pingAllowed says whether the host could be told to let everybody ping.
var pingAllowed bool

// populateHost opens the host's own servers and its ping sockets. The tests' process lives on the host, so these are
// ordinary listeners.
func populateHost() error {
	group := strconv.Itoa(os.Getgid())
	pingAllowed = os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte(group+" "+group), 0) == nil
	for _, at := range []string{"127.0.0.1:" + loopbackPort, ":" + ownPort} {
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
				go func() {
					io.Copy(c, c)
					c.Close()
				}()
			}
		}()
	}
	return nil
}

func make255() []byte {
	b := make([]byte, 255)
	for i := range b {
		b[i] = 'x'
	}
	return b
}

// sum answers with the SHA-256 of what it gets, when the client has half-closed.
func sum(c net.Conn) {
	defer c.Close()
	h := sha256.New()
	if _, err := io.Copy(h, c); err == nil {
		fmt.Fprintf(c, "%x", h.Sum(nil))
	}
}

// pour sends as many bytes as the client's first line says, the same ones each time (tests/probe knows them).
func pour(c net.Conn) {
	defer c.Close()
	var n int64
	if _, err := fmt.Fscanln(c, &n); err == nil {
		io.Copy(c, io.LimitReader(rand.NewChaCha8([32]byte{1}), n))
	}
}

// goodbye has said all it has to say at once, and then listens to the end.
func goodbye(c net.Conn) {
	io.WriteString(c, "goodbye")
	c.(*net.TCPConn).CloseWrite()
	listener(c)
}

// listener hears the client out.
func listener(c net.Conn) {
	defer c.Close()
	said, _ := io.ReadAll(c)
	heard.Store(string(said), true)
}

// heard is what clients of listener said.
var heard sync.Map

// banner speaks first.
func banner(c net.Conn) {
	defer c.Close()
	io.WriteString(c, "SSH-2.0-playground\r\n")
	io.Copy(c, c)
}

// resetAfterRead answers the first bytes with a RST.
func resetAfterRead(c net.Conn) {
	c.Read(make([]byte, 1))
	c.(*net.TCPConn).SetLinger(0)
	c.Close()
}

// pretendPostgres says yes to SSLRequest and then talks TLS, echoing.
func pretendPostgres(w *playground.World) func(net.Conn) {
	return func(c net.Conn) {
		defer c.Close()
		c.SetDeadline(time.Now().Add(time.Minute))
		if _, err := io.ReadFull(c, make([]byte, 8)); err != nil {
			return
		}
		io.WriteString(c, "S")
		t := tlsServer(c, w)
		io.Copy(t, t)
	}
}
