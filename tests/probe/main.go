// Command probe does one thing on the network and says how it went. The tests run it inside a sandbox.
//
//	probe get URL                     GET, print the status and the body (https3:// for HTTP/3)
//	probe tls ADDR:PORT NAME          TLS with SNI NAME ("" for none), print "connected"
//	probe postgres ADDR:PORT NAME     the same behind a Postgres SSLRequest
//	probe tcp ADDR:PORT [TEXT]        send TEXT, half-close, print what comes back
//	probe udp ADDR:PORT TEXT          send one datagram, print the one that comes back
//	probe ping ADDR                   send one echo request, print "pong"
//	probe dns SERVER:PORT NAME TYPE   ask, print the rcode and the answers (dns+tcp for TCP)
//	probe listen PORT                 listen on 127.0.0.1:PORT, echo one connection
//	probe serve PORT                  listen on every address, echo until killed
//
// More of it (load.go):
//
//	probe many N ADDR:PORT            N echoes at once, print how many came back
//	probe upload ADDR:PORT BYTES      send so many bytes, print whether the server's sum of them is right
//	probe download ADDR:PORT BYTES    receive so many bytes, print whether their sum is right
//	probe datagram ADDR:PORT BYTES    send one datagram of that size, print the size of the one that comes back
//	probe bursts ADDR:PORT N          send N bursts of datagrams of all sizes, print how many came back in order, and their octets
//	probe after ADDR:PORT TEXT        wait for the server to half-close, then send TEXT and close
//	probe past ADDR:PORT ADDR:PORT    dial the first and, while that hangs, echo over the second
//	probe hold ADDR:PORT              echo a word, print "open", and wait for the end of the connection: "ended" or an error
//	probe sizes ADDR:PORT N[,N...]    send a datagram of each size again and again until it comes back, print the sizes that did
//	probe beat ADDR:PORT N            send N datagrams a tenth of a second apart, print how many came back
//
// And of floods (flood.go):
//
//	probe questions N SERVER NAME     ask for NAME N times over TCP, print how many answers there were
//	probe leak SERVER SUFFIX SECONDS  carry data out in names below SUFFIX, print how many octets were taken
//	probe churn ECHO CLOSED DENIED    for each number on stdin, make so many flows to these, print how many were carried
//
// For the test that kills weir (stamp.go):
//
//	probe stamp N ADDR:PORT TOKEN     N flows that say all the time what time it is
//
// And those that run another program (around.go, withhold.go), outside the sandbox:
//
//	probe tty CMD ARG...              run CMD on a terminal of its own and print what it shows there
//	probe eventually ARG...           run probe ARG... until it goes well and prints something
//	probe withhold WHAT CMD ARG...    run CMD as on a kernel without landlock, seccomp or netfilter
//
// Errors go to stdout as "error: ERRNO or text", so that a script can match them; the exit status is then 1.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/miekg/dns"
	"github.com/quic-go/quic-go/http3"
	"golang.org/x/sys/unix"
)

// patience is how long anything may take. weir answers at once; only a hang reaches this.
const patience = 20 * time.Second

func main() {
	args := append(os.Args[1:], "", "", "")
	switch args[0] {
	case "tty":
		os.Exit(onTerminal(os.Args[2:]))
	case "eventually":
		os.Exit(eventually(os.Args[2:]))
	case "withhold":
		os.Exit(withhold(os.Args[2:]))
	}
	run := map[string]func(a, b, c string) error{
		"get": get, "tls": tlsTo, "postgres": postgres, "tcp": tcp, "udp": udp, "listen": listen, "serve": serve, "ping": ping,
		"many": many, "upload": upload, "download": download, "datagram": datagram, "bursts": bursts, "after": after, "past": past, "hold": hold, "beat": beat, "sizes": sizes,
		"questions": questions, "leak": leak, "churn": churn,
		"stamp": stamp, "linger": linger,
		"dns":     func(a, b, c string) error { return ask("udp", a, b, c) },
		"dns+tcp": func(a, b, c string) error { return ask("tcp", a, b, c) },
	}[args[0]]
	if run == nil {
		fmt.Fprintln(os.Stderr, "probe: unknown:", args[0])
		os.Exit(2)
	}
	if err := run(args[1], args[2], args[3]); err != nil {
		fmt.Println("error:", describe(err))
		os.Exit(1)
	}
}

// describe prefers the name of the errno: texts differ, names do not.
func describe(err error) string {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		if name := unix.ErrnoName(errno); name != "" {
			return name
		}
	}
	return err.Error()
}

func get(url, _, _ string) error {
	client := &http.Client{Timeout: patience}
	if rest, ok := strings.CutPrefix(url, "https3://"); ok {
		url, client.Transport = "https://"+rest, &http3.Transport{}
	}
	resp, err := client.Get(url)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	fmt.Println(resp.Status)
	_, err = io.Copy(os.Stdout, resp.Body)
	return err
}

func dial(network, address string) (net.Conn, error) {
	c, err := net.DialTimeout(network, address, patience)
	if err == nil {
		c.SetDeadline(time.Now().Add(patience))
	}
	return c, err
}

func tlsTo(address, name, _ string) error {
	c, err := dial("tcp", address)
	if err != nil {
		return err
	}
	return handshake(c, name)
}

func handshake(c net.Conn, name string) error {
	t := tls.Client(c, &tls.Config{ServerName: name, InsecureSkipVerify: true})
	if err := t.Handshake(); err != nil {
		return err
	}
	fmt.Println("connected")
	return t.Close()
}

func postgres(address, name, _ string) error {
	c, err := dial("tcp", address)
	if err != nil {
		return err
	}
	if _, err := c.Write([]byte{0, 0, 0, 8, 4, 210, 22, 47}); err != nil {
		return err
	}
	answer := make([]byte, 1)
	if _, err := io.ReadFull(c, answer); err != nil {
		return err
	}
	fmt.Printf("server says %s\n", answer)
	return handshake(c, name)
}

func tcp(address, text, _ string) error {
	c, err := dial("tcp", address)
	if err != nil {
		return err
	}
	if _, err := io.WriteString(c, text); err != nil {
		return err
	}
	c.(*net.TCPConn).CloseWrite()
	got, err := io.ReadAll(c)
	fmt.Printf("%s\n", got)
	return err
}

func udp(address, text, _ string) error {
	c, err := dial("udp", address)
	if err != nil {
		return err
	}
	if _, err := io.WriteString(c, text); err != nil {
		return err
	}
	b := make([]byte, 65535)
	n, err := c.Read(b)
	if err == nil {
		fmt.Printf("%s\n", b[:n])
	}
	return err
}

func ask(network, server, name, qtype string) error {
	q := new(dns.Msg)
	q.SetQuestion(dns.Fqdn(name), dns.StringToType[qtype])
	q.SetEdns0(1232, false)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r, _, err := (&dns.Client{Net: network}).ExchangeContext(ctx, q, server)
	if err != nil {
		return err
	}
	fmt.Println(dns.RcodeToString[r.Rcode], "truncated:", r.Truncated)
	for _, rr := range r.Answer {
		fmt.Println(rr)
	}
	if opt := r.IsEdns0(); opt != nil {
		for _, o := range opt.Option {
			fmt.Println("edns:", o)
		}
	}
	return nil
}

func serve(port, _, _ string) error {
	ln, err := net.Listen("tcp", ":"+port)
	if err != nil {
		return err
	}
	for {
		c, err := ln.Accept()
		if err != nil {
			return err
		}
		go func() {
			io.Copy(c, c)
			c.Close()
		}()
	}
}

func listen(port, _, _ string) error {
	ln, err := net.Listen("tcp", "127.0.0.1:"+port)
	if err != nil {
		return err
	}
	fmt.Println("listening")
	c, err := ln.Accept()
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = io.Copy(c, c)
	return err
}
