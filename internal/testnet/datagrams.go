package testnet

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"time"
)

// Datagrams sends bursts of datagrams on c, whose other end sends every one back, and reports the first that did not come
// back as it was and in its turn. The sizes go from 0 to largest, in runs of one size, in runs with a short tail, and mixed;
// a burst is small enough for any socket's buffer. It returns how many datagrams and how many octets were sent.
func Datagrams(c net.Conn, largest, bursts int, seed uint64) (n, octets int, err error) {
	random := rand.New(rand.NewPCG(seed, seed))
	defer c.SetDeadline(time.Time{})
	b := make([]byte, 1<<16)
	for range bursts {
		var burst [][]byte
		size, count, room := randomSize(random, largest), 1+random.IntN(24), 48<<10
		for range count {
			if random.IntN(5) == 0 {
				size = randomSize(random, largest)
			}
			if len(burst) > 0 && size > room {
				break
			}
			d := make([]byte, size)
			for i := range d {
				d[i] = byte(random.Uint32())
			}
			burst, room = append(burst, d), room-size-1024
		}
		c.SetDeadline(time.Now().Add(20 * time.Second))
		for _, d := range burst {
			if _, err := c.Write(d); err != nil {
				return n, octets, fmt.Errorf("write %d octets: %w", len(d), err)
			}
		}
		for i, d := range burst {
			got, err := c.Read(b)
			if err != nil {
				return n, octets, fmt.Errorf("datagram %d of %d, of %d octets, as number %d: %w", i, len(burst), len(d), n, err)
			}
			if !bytes.Equal(b[:got], d) {
				return n, octets, fmt.Errorf("datagram %d of %d, of %d octets, came back with %d", i, len(burst), len(d), got)
			}
			n, octets = n+1, octets+len(d)
		}
	}
	return n, octets, nil
}

// randomSize is mostly that of a packet of QUIC or DNS, and at times anything.
func randomSize(random *rand.Rand, largest int) int {
	switch random.IntN(8) {
	case 0:
		return random.IntN(largest + 1)
	case 1:
		return random.IntN(3)
	}
	return min(largest, 1+random.IntN(1472))
}
