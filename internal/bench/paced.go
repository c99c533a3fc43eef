//go:build linux

package bench

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"time"
)

// A flood shows how many datagrams get through; how many are lost below that shows only a sender that keeps its pace.

// pacePeriod is how often a paced sender sends what is due: a program that sends media or QUIC wakes up about as often.
const pacePeriod = time.Millisecond

// pace sends rate datagrams a second for d with send, in turns of pacePeriod, and returns how many.
func pace(rate int, d time.Duration, send func()) (sent int) {
	start := time.Now()
	for {
		since := time.Since(start)
		if since >= d {
			return sent
		}
		for due := int(since.Seconds() * float64(rate)); sent < due; sent++ {
			send()
		}
		time.Sleep(pacePeriod)
	}
}

// pacedUp sends at the order's rate and measures how many percent of it the server got.
func (c *client) pacedUp(o order) (answer, error) {
	conn, err := c.dial(o, "udp")
	if err != nil {
		return answer{}, err
	}
	defer conn.Close()
	conn.(*net.UDPConn).SetWriteBuffer(socketBuffer)
	id := rand.Uint64()
	b := make([]byte, datagramSize)
	copy(b, head(opFloodUp, id))
	sent := pace(o.Rate, o.For, func() { conn.Write(b) })
	time.Sleep(settle)
	ask, err := c.begin(o, opReceived, id)
	if err != nil {
		return answer{}, err
	}
	defer ask.Close()
	got, err := readNumber(ask)
	return arrived(got, sent), err
}

// pacedDown has the server send at the order's rate and measures how many percent of it arrive.
func (c *client) pacedDown(o order) (answer, error) {
	conn, err := c.dial(o, "udp")
	if err != nil {
		return answer{}, err
	}
	defer conn.Close()
	conn.(*net.UDPConn).SetReadBuffer(socketBuffer)
	if _, err := conn.Write(head(opPacedDown, uint64(o.Rate)<<32|uint64(o.For/time.Millisecond))); err != nil {
		return answer{}, err
	}
	b := make([]byte, 64*1024)
	var got, sent uint64
	for {
		conn.SetReadDeadline(time.Now().Add(o.For + 2*settle))
		n, err := conn.Read(b)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return answer{}, errors.New("the server's count did not come")
		}
		if err != nil {
			return answer{}, err
		}
		if n == headSize { // the last one says how many there were
			sent = binary.BigEndian.Uint64(b[8:])
			return arrived(got, int(sent)), nil
		}
		got++
	}
}

// paced is the server's side of pacedDown. What it says at the end is said more than once: it may get lost, too.
func (s *server) paced(to netip.AddrPort, arg uint64) {
	rate, d := int(arg>>32), time.Duration(uint32(arg))*time.Millisecond
	b := make([]byte, datagramSize)
	copy(b, head(opPacedDown, 0))
	sent := pace(rate, d, func() { s.udp.WriteToUDPAddrPort(b, to) })
	for range 5 {
		time.Sleep(settle / 5)
		s.udp.WriteToUDPAddrPort(head(opPacedDown, uint64(sent)), to)
	}
}

func arrived(got uint64, sent int) answer {
	if sent == 0 || got == 0 {
		return answer{Error: "no datagram came"}
	}
	return answer{Value: 100 * float64(got) / float64(sent), Bytes: int64(got) * datagramSize}
}

// connects measures how long connect(2) takes, one after the other, until the handshake is over.
func (c *client) connects(o order) (answer, error) {
	var all []time.Duration
	for end := time.Now().Add(o.For); time.Now().Before(end) && len(all) < crrMost; {
		start := time.Now()
		conn, err := c.dial(o, "tcp")
		if err != nil {
			return answer{}, err
		}
		all = append(all, time.Since(start))
		conn.Close()
	}
	a := quantiles(all)
	a.Value = a.P50
	return a, nil
}
