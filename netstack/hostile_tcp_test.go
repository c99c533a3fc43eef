package netstack

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/weir-dev/weir/flow/sniff"
)

const ackFlag, pushFlag = header.TCPFlagAck, header.TCPFlagAck | header.TCPFlagPsh

// hostileSegments are what is done to a connection after its first line, next bytes behind the SYN. The function returns
// what it makes the upstream receive; the connection has to work afterwards.
func hostileSegments() map[string]func(c *rawConn, next uint32) (received string) {
	forged := func(typ, code uint8, rest uint32) func(c *rawConn, next uint32) string {
		return func(c *rawConn, _ uint32) string {
			c.forge(typ, code, rest)
			return ""
		}
	}
	alone := func(offset int32, flags header.TCPFlags, options, payload []byte) func(c *rawConn, next uint32) string {
		return func(c *rawConn, next uint32) string {
			c.send(next+uint32(offset), flags, options, payload)
			return ""
		}
	}
	sack := func(edges ...uint32) []byte {
		b := []byte{1, 1, 5, byte(2 + 4*len(edges))}
		for _, e := range edges {
			b = binary.BigEndian.AppendUint32(b, e)
		}
		return b
	}
	return map[string]func(c *rawConn, next uint32) string{
		"retransmission with other bytes": alone(-4, pushFlag, nil, []byte("XXXX")),
		"overlap with other bytes": func(c *rawConn, next uint32) string {
			c.send(next-4, pushFlag, nil, []byte("XXXXab\r\n"))
			return "ab\r\n"
		},
		"hole, then other bytes over both": func(c *rawConn, next uint32) string {
			c.send(next+2, pushFlag, nil, []byte("cd"))
			c.send(next, pushFlag, nil, []byte("abXX"))
			return "ab**" // each of the last two is one of those that were sent for it
		},
		"hole filled from behind with other bytes": func(c *rawConn, next uint32) string {
			c.send(next+2, pushFlag, nil, []byte("cd"))
			c.send(next+1, pushFlag, nil, []byte("bXY"))
			c.send(next, pushFlag, nil, []byte("a"))
			return "ab**"
		},
		"urgent data": func(c *rawConn, next uint32) string {
			c.send(next, pushFlag|header.TCPFlagUrg, nil, []byte("urgent"))
			return "urgent"
		},
		"RST before the window":        alone(-100, flagRST, nil, nil),
		"RST behind the window":        alone(1<<30, flagRST, nil, nil),
		"RST in the window, not exact": alone(5, flagRST, nil, nil),
		"SYN in the window":            alone(5, flagSYN, nil, nil),
		"SYN and ACK":                  alone(0, flagSYN|ackFlag, nil, nil),
		"data behind the window":       alone(1<<29, pushFlag, nil, []byte("far away")),
		"FIN behind a hole":            alone(100, header.TCPFlagFin|ackFlag, nil, nil),
		"no flags":                     alone(0, 0, nil, []byte("none")),
		"ACK of what was never sent": func(c *rawConn, next uint32) string {
			c.ack += 1 << 20
			c.send(next, pushFlag, nil, []byte("lie"))
			c.ack -= 1 << 20
			return "lie" // RFC 9293 would have the segment dropped; gVisor only ignores the acknowledgement
		},
		"SACK of what was never sent":   alone(0, ackFlag, sack(1, 2, 1<<31, 5, 0xffffffff, 0), nil),
		"SACK backwards":                alone(0, ackFlag, sack(100, 1), nil),
		"options of length 0":           alone(0, ackFlag, []byte{5, 0, 8, 0}, nil),
		"timestamps that nobody wanted": alone(0, ackFlag, []byte{1, 1, 8, 10, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, nil),
		"zero window": func(c *rawConn, next uint32) string {
			c.sendWindow(next, pushFlag, 0, nil, []byte("stop"))
			time.Sleep(50 * time.Millisecond) // the answer has nowhere to go
			c.send(next+4, ackFlag, nil, nil)
			return "stop"
		},
		"too big, MTU 68":       forged(3, 4, 68),
		"too big, MTU 0":        forged(3, 4, 0),
		"too big, MTU 600":      forged(3, 4, 600),
		"host unreachable":      forged(3, 1, 0),
		"port unreachable":      forged(3, 3, 0),
		"protocol unreachable":  forged(3, 2, 0),
		"administratively shut": forged(3, 13, 0),
		"redirect":              forged(5, 1, 0x0a4d0066),
		"time exceeded":         forged(11, 0, 0),
		"source quench":         forged(4, 0, 0),
	}
}

// forge sends an ICMP error about the door's segments.
func (c *rawConn) forge(typ, code uint8, rest uint32) {
	b := packet4(c.dst.Addr().String(), guest4.String(), 6, nil, make([]byte, 20))
	binary.BigEndian.PutUint16(b[20:], c.dst.Port())
	binary.BigEndian.PutUint16(b[22:], c.sport)
	binary.BigEndian.PutUint32(b[24:], c.ack)
	c.w.send(vnetHdr{}, l2(ethernet4, packet4(guest4.String(), c.dst.Addr().String(), 1, nil, icmp4(typ, code, rest, b))))
}

// A connection lives through segments and errors that are not its own, and what its upstream gets is what was sent first.
func TestHostileSegments(t *testing.T) {
	const first, after = "first?\r\n", "after!\r\n"
	for name, attack := range hostileSegments() {
		t.Run(name, func(t *testing.T) {
			world := newArmed()
			w := newWire(t, Config{}, world)
			c, err := w.openRaw(5000, openPort, []byte{2, 4, 5, 0xb4, 4, 2, 1, 1})
			if err != nil {
				t.Fatal(err)
			}
			c.send(1, pushFlag, nil, []byte(first))
			next := uint32(1 + len(first))
			if _, err := c.read(len(first), next); err != nil {
				t.Fatal(err)
			}
			want := attack(c, next)
			next += uint32(len(want))
			c.send(next, pushFlag, nil, []byte(after))
			got, err := c.read(len(want)+len(after), next+uint32(len(after)))
			if err != nil || !matches(string(got), want+after) {
				t.Errorf("%q came back, want %q: %v", got, want+after, err)
			}
			w.close()
			for _, what := range world.wrong {
				t.Error(what)
			}
			if n := len(world.upstreams); n != 1 || !matches(string(world.upstreams[0].received()), first+want+after) {
				t.Errorf("%d upstreams, the first got %q", n, world.upstreams[0].received())
			}
		})
	}
}

// matches compares with a pattern in which * is any byte.
func matches(s, pattern string) bool {
	if len(s) != len(pattern) {
		return false
	}
	for i := range s {
		if pattern[i] != '*' && s[i] != pattern[i] {
			return false
		}
	}
	return true
}

// A forged "fragmentation needed" makes no segment smaller than a path can be.
func TestForgedMTUIsBounded(t *testing.T) {
	for mtu, want := range map[uint32]int{0: 1460, 68: 1460, 551: 1460, 552: 552 - 40, 1400: 1360} {
		t.Run(fmt.Sprint(mtu), func(t *testing.T) {
			world := newArmed()
			w := newWire(t, Config{}, world)
			c, err := w.openRaw(5000, openPort, []byte{2, 4, 5, 0xb4})
			if err != nil {
				t.Fatal(err)
			}
			c.send(1, pushFlag, nil, []byte("line\r\n")) // now the connection is there
			if _, err := c.read(6, 7); err != nil {
				t.Fatal(err)
			}
			c.forge(3, 4, mtu)
			w.sync()
			data := make([]byte, 1460)
			c.send(7, pushFlag, nil, data)
			largest := 0
			for n := 0; n < len(data); {
				s, ok := c.next(patience)
				if !ok {
					t.Fatalf("%d bytes came back", n)
				}
				n, largest = n+len(s.payload), max(largest, len(s.payload))
				c.ack = s.seq + uint32(len(s.payload))
				c.send(7+uint32(len(data)), ackFlag, nil, nil)
			}
			if largest != want {
				t.Errorf("segments of %d bytes, want %d", largest, want)
			}
		})
	}
}

// firstBytes are two beginnings of a stream of the same length that claim different names.
func firstBytes(t *testing.T) map[string][2][]byte {
	t.Helper()
	ours, theirs := net.Pipe()
	go tls.Client(ours, &tls.Config{ServerName: goodName}).Handshake()
	hello := make([]byte, 1<<14)
	n, err := io.ReadAtLeast(theirs, hello, 500)
	theirs.Close()
	if err != nil {
		t.Fatal(err)
	}
	evil := func(b []byte) []byte { return bytes.ReplaceAll(b, []byte(goodName), []byte("evil.example")) }
	get := []byte("GET /" + strings.Repeat("x", 40) + " HTTP/1.1\r\nX: y\r\nHost: " + goodName + "\r\n\r\nbody")
	return map[string][2][]byte{"http": {get, evil(get)}, "tls": {hello[:n], evil(hello[:n])}}
}

// What we parse is what upstream gets: however a program overlaps its segments, and whatever different bytes it puts into
// them, the stack ends the connection here, and the one stream that comes out of it is judged and carried.
func TestParsedIsForwarded(t *testing.T) {
	for proto, streams := range firstBytes(t) {
		forwarded, refused := 0, 0
		for seed := range uint64(150) {
			r := rand.New(rand.NewPCG(seed, 9))
			world := newArmed()
			w := newWire(t, Config{}, world)
			dst := map[string]string{"http": goodAddr + ":80", "tls": goodAddr + ":443"}[proto]
			c, err := w.openRaw(5000, dst, nil)
			if err != nil {
				t.Fatal(err)
			}
			size := len(streams[0])
			for range 40 {
				at := r.IntN(size)
				n := 1 + r.IntN(min(size-at, 200))
				c.send(1+uint32(at), pushFlag, nil, streams[r.IntN(2)][at:at+n])
			}
			for at := 0; at < size; at += 200 { // and all that is missing
				c.send(1+uint32(at), pushFlag, nil, streams[r.IntN(2)][at:min(size, at+200)])
			}
			eventually(t, "a judgement", func() bool {
				world.mu.Lock()
				defer world.mu.Unlock()
				return len(world.claims) == 1
			})
			if world.claims[0] == goodName {
				eventually(t, "all bytes upstream", func() bool {
					world.mu.Lock()
					defer world.mu.Unlock()
					return len(world.upstreams) == 1 && len(world.upstreams[0].received()) >= size
				})
			}
			w.close()
			world.ended.Wait()
			var sent []byte
			for _, u := range world.upstreams {
				sent = append(sent, u.received()...)
			}
			if len(sent) == 0 {
				refused++
				if world.claims[0] == goodName {
					t.Errorf("%s %d: a good claim was refused", proto, seed)
				}
				continue
			}
			forwarded++
			var s sniff.Stream
			hint, _ := s.Feed(sent)
			if hint.Host != world.claims[0] || hint.Host != goodName {
				t.Errorf("%s %d: judged as %q, upstream got %q", proto, seed, world.claims[0], hint.Host)
			}
			for i, b := range sent {
				if b != streams[0][i] && b != streams[1][i] {
					t.Fatalf("%s %d: byte %d was never sent", proto, seed, i)
				}
			}
		}
		if forwarded == 0 || refused == 0 {
			t.Errorf("%s: %d forwarded, %d refused: the test says nothing", proto, forwarded, refused)
		}
		t.Logf("%s: %d forwarded, %d refused", proto, forwarded, refused)
	}
}

// The addresses of the armed gate are those of its rules.
func TestArmedAddresses(t *testing.T) {
	for d := range allowedDials {
		_, ap, _ := strings.Cut(d, " ")
		if addr := netip.MustParseAddrPort(ap).Addr().String(); addr != goodAddr && addr != openAddr && addr != "2001:db8::7" {
			t.Errorf("%s is in no rule", d)
		}
	}
}
