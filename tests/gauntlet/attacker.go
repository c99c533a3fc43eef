//go:build linux

package gauntlet

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/miekg/dns"
	"github.com/quic-go/quic-go"
)

// patience is how long one step of an attack may take. A denial is fast, so only a broken row or a hang reaches it.
const patience = 10 * time.Second

// quicPatience is how long a QUIC handshake may take: a denial is told to a socket, and no library listens.
const quicPatience = 1500 * time.Millisecond

// Attacker is what an attack knows.
type Attacker struct {
	ID, Token string
	Args      map[string]string
}

// began is the first line of an attack: without it nothing was attacked.
const began = "attack begins"

// attackWord is the first argument of this binary as an attacker.
const attackWord = "attack"

// IsAttack reports whether this process is to be an attacker inside; then the caller has to call AttackMain at once.
func IsAttack() bool { return len(os.Args) >= 3 && os.Args[1] == attackWord }

// AttackMain runs the attack that the arguments name and exits with 0 if it reached what it wanted.
func AttackMain() {
	var a Attacker
	if err := json.Unmarshal([]byte(os.Args[2]), &a); err != nil {
		fmt.Fprintln(os.Stderr, "gauntlet:", err)
		os.Exit(2)
	}
	row, ok := find(a.ID)
	if !ok {
		fmt.Fprintln(os.Stderr, "gauntlet: no such row:", a.ID)
		os.Exit(2)
	}
	fmt.Println(began)
	if err := row.Attack(&a); err != nil {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
	fmt.Println("succeeded")
	os.Exit(0)
}

// dial opens a connection.
func dial(network, address string) (net.Conn, error) {
	c, err := net.DialTimeout(network, address, patience)
	if err == nil {
		c.SetDeadline(time.Now().Add(patience))
	}
	return c, err
}

// at is an address and a port in text.
func at(a netip.Addr, port uint16) string { return netip.AddrPortFrom(a, port).String() }

// tell says the text to a server and waits for its answer.
func tell(c net.Conn, text string) error {
	if _, err := io.WriteString(c, text); err != nil {
		return err
	}
	b := make([]byte, 256)
	n, err := c.Read(b)
	if err != nil {
		return fmt.Errorf("wait for answer: %w", err)
	}
	if n == 0 {
		return errors.New("empty answer")
	}
	return nil
}

// tellTCP says the token to a plain server. The line break shows at once that this is not the beginning of a HTTP request,
// for which weir would wait.
func (a *Attacker) tellTCP(address string) error {
	c, err := dial("tcp", address)
	if err != nil {
		return err
	}
	defer c.Close()
	return tell(c, a.Token+"\n")
}

// tellUDP says the token in one datagram.
func (a *Attacker) tellUDP(address string) error {
	c, err := dial("udp", address)
	if err != nil {
		return err
	}
	defer c.Close()
	return tell(c, a.Token)
}

// tellTLS says the token inside TLS with this server name ("" for none).
func (a *Attacker) tellTLS(address, name string) error {
	c, err := dial("tcp", address)
	if err != nil {
		return err
	}
	defer c.Close()
	return a.overTLS(c, name)
}

func (a *Attacker) overTLS(c net.Conn, name string) error {
	t := tls.Client(c, &tls.Config{ServerName: name, InsecureSkipVerify: true})
	if err := t.Handshake(); err != nil {
		return err
	}
	return tell(t, a.Token)
}

// tellQUIC says the token on a stream of a QUIC connection with this server name, from the given socket (nil for a new one).
func (a *Attacker) tellQUIC(pc net.PacketConn, address, name string) error {
	to, err := net.ResolveUDPAddr("udp", address)
	if err != nil {
		return err
	}
	if pc == nil {
		if pc, err = net.ListenPacket("udp", ":0"); err != nil {
			return err
		}
		defer pc.Close()
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	t := &tls.Config{ServerName: name, InsecureSkipVerify: true, NextProtos: []string{"gauntlet"}}
	c, err := quic.Dial(ctx, pc, to, t, &quic.Config{HandshakeIdleTimeout: quicPatience})
	if err != nil {
		return err
	}
	defer c.CloseWithError(0, "")
	s, err := c.OpenStreamSync(ctx)
	if err != nil {
		return err
	}
	if _, err := io.WriteString(s, a.Token); err != nil {
		return err
	}
	s.SetReadDeadline(time.Now().Add(patience))
	_, err = s.Read(make([]byte, 16))
	return err
}

// ask puts one question to a server ("" for the one of resolv.conf) and returns the addresses of the answer.
func (a *Attacker) ask(network, server, name string, qtype uint16) ([]netip.Addr, error) {
	if server == "" {
		conf, err := dns.ClientConfigFromFile("/etc/resolv.conf")
		if err != nil || len(conf.Servers) == 0 {
			return nil, fmt.Errorf("no resolver: %w", err)
		}
		server = net.JoinHostPort(conf.Servers[0], "53")
	}
	q := new(dns.Msg)
	q.SetQuestion(dns.Fqdn(name), qtype)
	r, _, err := (&dns.Client{Net: network, Timeout: patience, TLSConfig: &tls.Config{InsecureSkipVerify: true}}).Exchange(q, server)
	if err != nil {
		return nil, err
	}
	if r.Rcode != dns.RcodeSuccess {
		return nil, fmt.Errorf("%s for %s", dns.RcodeToString[r.Rcode], name)
	}
	var list []netip.Addr
	for _, rr := range r.Answer {
		switch v := rr.(type) {
		case *dns.A:
			addr, _ := netip.AddrFromSlice(v.A.To4())
			list = append(list, addr)
		case *dns.AAAA:
			addr, _ := netip.AddrFromSlice(v.AAAA.To16())
			list = append(list, addr)
		}
	}
	return list, nil
}

// contains fails unless the text has the token.
func (a *Attacker) contains(text []byte) error {
	if !strings.Contains(string(text), a.Token) {
		return errors.New("the secret is not there")
	}
	return nil
}

// runPath runs a program that only has to end well.
func runPath(path string) error { return run(exec.Command(path)) }

// descriptorPath is the path by which a process opens what it has open once more.
func descriptorPath(fd int) string { return fmt.Sprintf("/proc/self/fd/%d", fd) }
