package session

import (
	"context"
	"encoding/binary"
	"io"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/weir-dev/weir/tunnel"
	"github.com/weir-dev/weir/tunnel/wire"
)

// dnsHeader is the length of the header of a DNS message (RFC 1035 section 4.1.1), in octets: nothing shorter is one.
const dnsHeader = 12

// Query implements [tunnel.Opener]. Without a deadline in ctx it waits for [QueryTimeout].
func (e *Edge) Query(ctx context.Context, query tunnel.Query) ([]byte, tunnel.Identity, error) {
	if len(query.Message) < dnsHeader || len(query.Message) > 65535 {
		return nil, e.who, tunnel.Errorf(tunnel.Malformed, "a DNS message of %d octets", len(query.Message))
	}
	ctx, cancel := context.WithTimeout(ctx, QueryTimeout)
	defer cancel()
	q, err := e.open(ctx, wire.Header{Kind: wire.DNS, Open: tunnel.Open{Owner: query.Owner}}, urgencyDNS)
	if err != nil {
		return nil, e.who, err
	}
	defer e.end()
	stop := context.AfterFunc(ctx, func() { refuse(q, tunnel.TimedOut) })
	defer stop()
	if err := e.writeDNS(q, query.Message); err != nil {
		refuse(q, tunnel.Internal)
		return nil, e.who, openError(ctx, err)
	}
	if _, err := e.await(ctx, q); err != nil {
		return nil, e.who, err
	}
	answer, err := readDNS(q)
	if err != nil {
		refuse(q, streamCode(err))
		return nil, e.who, openError(ctx, err)
	}
	return answer, e.who, nil
}

// serveQuery answers the DNS query on a stream.
func (c *Client) serveQuery(ctx context.Context, q *quic.Stream, h wire.Header) {
	q.SetReadDeadline(time.Now().Add(headerTimeout))
	message, err := readDNS(q)
	if err != nil {
		refuse(q, streamCode(err))
		return
	}
	ctx, cancel := context.WithTimeout(ctx, QueryTimeout)
	defer cancel()
	reply, err := c.handler.Query(ctx, tunnel.Query{Owner: h.Open.Owner, Message: message})
	if err == nil && (len(reply) < dnsHeader || len(reply) > 65535) {
		err = tunnel.Errorf(tunnel.NameFailed, "")
	}
	if err != nil {
		c.answerError(q, err)
		return
	}
	if c.answer(q, wire.Status{}) != nil || c.writeDNS(q, reply) != nil {
		refuse(q, tunnel.TimedOut)
	}
}

// writeDNS writes a message with its length (RFC 9250 section 4.2) and the end of the stream.
func (l *link) writeDNS(q *quic.Stream, message []byte) error {
	l.fair.use(time.Now())
	b := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(message)), uint16(len(message)))
	q.SetWriteDeadline(time.Now().Add(headerTimeout))
	if _, err := q.Write(append(b, message...)); err != nil {
		return err
	}
	return q.Close()
}

// readDNS reads a message with its length and the end of the stream, so that the stream is done with.
func readDNS(q *quic.Stream) ([]byte, error) {
	var length [2]byte
	if _, err := io.ReadFull(q, length[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint16(length[:])
	if n < dnsHeader {
		return nil, tunnel.Errorf(tunnel.Malformed, "a DNS message of %d octets", n)
	}
	message := make([]byte, n)
	if _, err := io.ReadFull(q, message); err != nil {
		return nil, err
	}
	if n, err := q.Read(length[:1]); n > 0 || err != io.EOF {
		return nil, tunnel.Errorf(tunnel.Malformed, "more than a DNS message")
	}
	return message, nil
}
