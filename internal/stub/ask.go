package stub

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// maxUDP is the longest answer that is received in one datagram, in octets, whatever was offered.
const maxUDP = 4096

// maxForged is how many replies to one question may be to another one before the question is asked again over TCP, where
// nobody off the path can answer.
const maxForged = 16

var (
	errForged  = errors.New("too many replies to questions that were not asked")
	errForeign = errors.New("reply is not to this question")
	errBroken  = errors.New("reply cannot be parsed")
)

// askServer asks one nameserver once: over UDP, over TCP when the answer was cut, and without EDNS when it cannot take it.
func (cl *Client) askServer(ctx context.Context, c Conf, server netip.AddrPort, q *dns.Msg) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, c.Timeout)
	defer cancel()
	q = q.Copy()
	r, err := cl.askOnce(ctx, c, server, q)
	if err == nil && (r.Rcode == dns.RcodeFormatError || r.Rcode == dns.RcodeNotImplemented) && q.IsEdns0() != nil {
		q.Extra = nil // RFC 6891 section 7
		r, err = cl.askOnce(ctx, c, server, q)
	}
	if err != nil {
		return nil, fmt.Errorf("ask nameserver %s: %w", server, err)
	}
	r.Question = q.Question
	return r, nil
}

func (cl *Client) askOnce(ctx context.Context, c Conf, server netip.AddrPort, q *dns.Msg) (*dns.Msg, error) {
	if c.TCP {
		return cl.askTCP(ctx, server, q)
	}
	r, err := cl.askUDP(ctx, server, q)
	switch {
	case errors.Is(err, errForged), errors.Is(err, errBroken):
		return cl.askTCP(ctx, server, q)
	case err != nil || !r.Truncated:
		return r, err
	}
	whole, err := cl.askTCP(ctx, server, q)
	if err != nil {
		cl.debug(err)
		return r, nil // half an answer, marked as such, is more than none
	}
	return whole, nil
}

// askUDP asks from a socket of its own: a random port and a random ID (RFC 5452), connected, so that the kernel drops what
// comes from elsewhere. A reply that is not to this question is passed over.
func (cl *Client) askUDP(ctx context.Context, server netip.AddrPort, q *dns.Msg) (*dns.Msg, error) {
	conn, done, err := cl.dial(ctx, "udp", server)
	if err != nil {
		return nil, err
	}
	defer done()
	q.Id = dns.Id()
	raw, err := q.Pack()
	if err != nil {
		return nil, fmt.Errorf("pack question: %w", err)
	}
	if _, err := conn.Write(raw); err != nil {
		return nil, fmt.Errorf("send question: %w", err)
	}
	buf := make([]byte, maxUDP)
	for range maxForged {
		n, err := conn.Read(buf)
		if err != nil {
			return nil, fmt.Errorf("receive answer: %w", err)
		}
		r, err := AnswerTo(q, buf[:n])
		if err == nil || errors.Is(err, errBroken) {
			return r, err
		}
		cl.forged.Add(1)
	}
	return nil, errForged
}

func (cl *Client) askTCP(ctx context.Context, server netip.AddrPort, q *dns.Msg) (*dns.Msg, error) {
	cl.overTCP.Add(1)
	conn, done, err := cl.dial(ctx, "tcp", server)
	if err != nil {
		return nil, err
	}
	defer done()
	q.Id = dns.Id()
	raw, err := q.Pack()
	if err != nil {
		return nil, fmt.Errorf("pack question: %w", err)
	}
	if _, err := conn.Write(Frame(raw)); err != nil {
		return nil, fmt.Errorf("send question: %w", err)
	}
	got, err := ReadFrame(conn)
	if err != nil {
		return nil, fmt.Errorf("receive answer: %w", err)
	}
	r, err := AnswerTo(q, got)
	if err != nil {
		cl.forged.Add(1)
		return nil, fmt.Errorf("receive answer: %w", err)
	}
	return r, nil
}

// dial connects and lets the end of ctx end all reads and writes; done closes.
func (cl *Client) dial(ctx context.Context, network string, server netip.AddrPort) (conn net.Conn, done func(), err error) {
	dial := cl.Dial
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	conn, err = dial(ctx, network, server.String())
	if err != nil {
		return nil, nil, fmt.Errorf("dial nameserver: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	return conn, func() { stop(); conn.Close() }, nil
}

// AnswerTo parses a reply to q: errForeign if it answers something else, errBroken if it would answer q but is not whole.
// A server that did not even understand the question may leave it out.
func AnswerTo(q *dns.Msg, raw []byte) (*dns.Msg, error) {
	r := new(dns.Msg)
	err := r.Unpack(raw)
	if !r.Response || r.Id != q.Id || r.Opcode != dns.OpcodeQuery || len(r.Question) > 1 {
		return nil, errForeign
	}
	if len(r.Question) == 0 && (err != nil || r.Rcode == dns.RcodeSuccess || r.Rcode == dns.RcodeNameError) {
		return nil, errForeign
	}
	if len(r.Question) == 1 && !SameQuestion(r.Question[0], q.Question[0]) {
		return nil, errForeign
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errBroken, err)
	}
	return r, nil
}

// SameQuestion reports whether both ask the same; letters may differ in case.
func SameQuestion(a, b dns.Question) bool {
	return a.Qtype == b.Qtype && a.Qclass == b.Qclass && strings.EqualFold(a.Name, b.Name)
}
