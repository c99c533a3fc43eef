//go:build linux

package bench

import (
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// roundTrips measures requests and responses per second and how long each took.
func (c *client) roundTrips(o order) (answer, error) {
	var mu sync.Mutex
	var all []time.Duration
	err := each(o.Streams, func() error {
		conn, err := c.begin(o, opEcho, 0)
		if err != nil {
			return err
		}
		defer conn.Close()
		var mine []time.Duration
		msg := make([]byte, messageSize)
		for end := time.Now().Add(o.For); time.Now().Before(end); {
			start := time.Now()
			if err := exchange(conn, msg); err != nil {
				return err
			}
			mine = append(mine, time.Since(start))
		}
		mu.Lock()
		all = append(all, mine...)
		mu.Unlock()
		return nil
	})
	a := quantiles(all)
	a.Value = float64(len(all)) / o.For.Seconds()
	return a, err
}

func exchange(conn net.Conn, msg []byte) error {
	if _, err := conn.Write(msg); err != nil {
		return err
	}
	_, err := io.ReadFull(conn, msg)
	return err
}

func quantiles(all []time.Duration) (a answer) {
	if len(all) > 0 {
		slices.Sort(all)
		at := func(q float64) float64 { return float64(all[int(q*float64(len(all)-1))].Nanoseconds()) / 1e3 }
		a.P50, a.P99 = at(0.5), at(0.99)
	}
	return a
}

// connections measures connect, request, response, close per second: those that were done in time. A straggler, whose SYN was
// lost say, shows in the p99.
func (c *client) connections(o order) (answer, error) {
	var mu sync.Mutex
	var all []time.Duration
	var left atomic.Int64
	inTime, last := 0, time.Duration(0) // how many, and when the last of them was done
	left.Store(crrMost)
	start := time.Now()
	err := each(o.Streams, func() error {
		first := append(head(opEcho, 0), make([]byte, messageSize)...)
		for time.Since(start) < o.For && left.Add(-1) >= 0 {
			began := time.Now()
			if err := c.once(o, first); err != nil {
				return err
			}
			mu.Lock()
			all = append(all, time.Since(began))
			if done := time.Since(start); done <= o.For {
				inTime++
				last = done
			}
			mu.Unlock()
		}
		return nil
	})
	a := quantiles(all)
	window := o.For
	if left.Load() < 0 { // no more were allowed
		window = last
	}
	if inTime > 0 {
		a.Value = float64(inTime) / window.Seconds()
	} else if len(all) > 0 { // not one was as fast as that
		a.Value = float64(len(all)) / time.Since(start).Seconds()
	}
	return a, err
}

// once is one connection from beginning to end.
func (c *client) once(o order, request []byte) error {
	conn, err := c.dial(o, "tcp")
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err = conn.Write(request); err == nil {
		_, err = io.ReadFull(conn, make([]byte, messageSize))
	}
	return err
}

// floodUp sends datagrams as fast as it can and counts those that the server got, per second.
func (c *client) floodUp(o order) (answer, error) {
	conn, err := c.dial(o, "udp")
	if err != nil {
		return answer{}, err
	}
	defer conn.Close()
	id := rand.Uint64()
	b := make([]byte, datagramSize)
	copy(b, head(opFloodUp, id))
	for end := time.Now().Add(o.For); time.Now().Before(end); {
		conn.Write(b) // a full queue is part of what is measured
	}
	time.Sleep(settle)
	ask, err := c.begin(o, opReceived, id)
	if err != nil {
		return answer{}, err
	}
	defer ask.Close()
	n, err := readNumber(ask)
	if err != nil {
		return answer{}, err
	}
	took, err := readNumber(ask)
	return perSecond(n, time.Duration(took)), err
}

// floodDown has the server send and counts what arrives, per second.
func (c *client) floodDown(o order) (answer, error) {
	conn, err := c.dial(o, "udp")
	if err != nil {
		return answer{}, err
	}
	defer conn.Close()
	conn.(*net.UDPConn).SetReadBuffer(socketBuffer)
	if _, err := conn.Write(head(opFloodDown, uint64(o.For))); err != nil {
		return answer{}, err
	}
	b := make([]byte, 64*1024)
	var n uint64
	var first, last time.Time
	for {
		conn.SetReadDeadline(time.Now().Add(2 * settle))
		_, err := conn.Read(b)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return perSecond(n, last.Sub(first)), nil
		}
		if err != nil {
			return answer{}, err
		}
		last = time.Now()
		if n++; n == 1 {
			first = last
		}
	}
}

func perSecond(n uint64, took time.Duration) answer {
	if n < 2 || took <= 0 {
		return answer{Error: "no datagram came"}
	}
	return answer{Value: float64(n) / took.Seconds(), Bytes: int64(n) * datagramSize}
}

// settle is how long queues are given to run empty.
const settle = 100 * time.Millisecond

// hold opens connections, uses each once, and keeps them.
func (c *client) hold(o order) (answer, error) {
	var mu sync.Mutex
	var left atomic.Int64
	left.Store(int64(o.Streams))
	err := each(16, func() error {
		for left.Add(-1) >= 0 {
			conn, err := c.begin(o, opEcho, 0)
			if err != nil {
				return err
			}
			mu.Lock()
			c.held = append(c.held, conn)
			mu.Unlock()
			if err := exchange(conn, make([]byte, messageSize)); err != nil {
				return err
			}
			conn.SetDeadline(time.Time{})
		}
		return nil
	})
	return answer{Value: float64(len(c.held))}, err
}
