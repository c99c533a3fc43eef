//go:build linux

package main

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// order is one line on the client's stdin.
type order struct {
	What    string        // hello, up, down, rr, crr, udp-up, udp-down, idle, release
	Target  string        // host:port of the server
	Streams int           // connections at once
	For     time.Duration // how long
}

// answer is the line that follows on its stdout.
type answer struct {
	Value    float64 // in the unit of the metric; for hello the MTU
	Bytes    int64   // carried
	P50, P99 float64 // microseconds
	Flows    int     // opened so far
	Error    string
}

// crrMost bounds the connections of one run of crr: their ports stay in TIME_WAIT for a minute.
const crrMost = 6000

// client is the program inside a subject.
type client struct {
	held  []net.Conn
	free  sync.Pool         // of transfer buffers
	addrs map[string]string // of names that were looked up
}

// clientMain obeys until its orders end.
func clientMain([]string) error {
	c := &client{addrs: map[string]string{}, free: sync.Pool{New: func() any { b := make([]byte, chunkSize); return &b }}}
	dec, enc := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		var o order
		if err := dec.Decode(&o); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		a, err := answer{}, error(nil)
		if o.Target, err = c.resolve(o.Target); err == nil {
			a, err = c.obey(o)
		}
		a.Flows = int(flows.Load())
		if err != nil {
			a.Error = err.Error()
		}
		if err := enc.Encode(a); err != nil {
			return err
		}
	}
}

// resolve puts an address in the place of the name in a target. Each name is looked up once: connections are measured, not
// resolvers.
func (c *client) resolve(target string) (string, error) {
	if target == "" {
		return "", nil
	}
	host, port, err := net.SplitHostPort(target)
	if err != nil {
		return "", err
	}
	if c.addrs[host] == "" {
		addr, err := net.ResolveIPAddr("ip4", host)
		if err != nil {
			return "", err
		}
		c.addrs[host] = addr.String()
	}
	return net.JoinHostPort(c.addrs[host], port), nil
}

func (c *client) obey(o order) (answer, error) {
	switch o.What {
	case "hello":
		return answer{Value: float64(mtu())}, nil
	case "up":
		return transfer(o, c.up)
	case "down":
		return transfer(o, c.down)
	case "rr":
		return roundTrips(o)
	case "crr":
		return connections(o)
	case "udp-up":
		return floodUp(o)
	case "udp-down":
		return floodDown(o)
	case "idle":
		return c.hold(o)
	case "release":
		for _, conn := range c.held {
			conn.Close()
		}
		c.held = nil
		return answer{}, nil
	}
	return answer{}, fmt.Errorf("unknown order %q", o.What)
}

// mtu is that of the interface that is not lo; lo's when there is no other.
func mtu() int {
	m := 0
	links, _ := net.Interfaces()
	for _, l := range links {
		if l.Flags&net.FlagUp != 0 && (m == 0 || l.Flags&net.FlagLoopback == 0) {
			m = l.MTU
		}
	}
	return m
}

// each runs f n times at once and returns the first error.
func each(n int, f func() error) error {
	errs := make(chan error, n)
	for range n {
		go func() { errs <- f() }()
	}
	var first error
	for range n {
		if err := <-errs; err != nil && first == nil {
			first = err
		}
	}
	return first
}

// flows counts what dial has opened.
var flows atomic.Int64

func dial(network, target string) (net.Conn, error) {
	conn, err := net.Dial(network, target)
	if err == nil {
		flows.Add(1)
	}
	return conn, err
}

func begin(o order, op byte, arg uint64) (net.Conn, error) {
	conn, err := dial("tcp", o.Target)
	if err != nil {
		return nil, err
	}
	if _, err := conn.Write(head(op, arg)); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// transfer measures Gbit/s from the first dial to the last byte's arrival.
func transfer(o order, move func(order) (int64, error)) (answer, error) {
	var total atomic.Int64
	start := time.Now()
	err := each(o.Streams, func() error {
		n, err := move(o)
		total.Add(n)
		return err
	})
	took := time.Since(start)
	return answer{Value: float64(total.Load()) * 8 / 1e9 / took.Seconds(), Bytes: total.Load()}, err
}

// up returns what the server has received.
func (c *client) up(o order) (int64, error) {
	conn, err := begin(o, opSink, 0)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	b := c.free.Get().(*[]byte)
	defer c.free.Put(b)
	for end := time.Now().Add(o.For); time.Now().Before(end); {
		if _, err := conn.Write(*b); err != nil {
			return 0, err
		}
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		return 0, err
	}
	n, err := readNumber(conn)
	return int64(n), err
}

// down returns what the client has received.
func (c *client) down(o order) (n int64, err error) {
	conn, err := begin(o, opSource, uint64(o.For))
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	b := c.free.Get().(*[]byte)
	defer c.free.Put(b)
	for {
		m, err := conn.Read(*b)
		n += int64(m)
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

func readNumber(conn net.Conn) (uint64, error) {
	b := make([]byte, headSize)
	_, err := io.ReadFull(conn, b)
	return binary.BigEndian.Uint64(b[8:]), err
}

// roundTrips measures requests and responses per second and how long each took.
func roundTrips(o order) (answer, error) {
	var mu sync.Mutex
	var all []time.Duration
	err := each(o.Streams, func() error {
		conn, err := begin(o, opEcho, 0)
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

// connections measures connect, request, response, close per second.
func connections(o order) (answer, error) {
	var mu sync.Mutex
	var all []time.Duration
	var left atomic.Int64
	left.Store(crrMost)
	start := time.Now()
	err := each(o.Streams, func() error {
		var mine []time.Duration
		first := append(head(opEcho, 0), make([]byte, messageSize)...)
		for end := start.Add(o.For); time.Now().Before(end) && left.Add(-1) >= 0; {
			began := time.Now()
			conn, err := dial("tcp", o.Target)
			if err != nil {
				return err
			}
			_, err = conn.Write(first)
			if err == nil {
				_, err = io.ReadFull(conn, make([]byte, messageSize))
			}
			conn.Close()
			if err != nil {
				return err
			}
			mine = append(mine, time.Since(began))
		}
		mu.Lock()
		all = append(all, mine...)
		mu.Unlock()
		return nil
	})
	a := quantiles(all)
	a.Value = float64(len(all)) / time.Since(start).Seconds()
	return a, err
}

// floodUp sends datagrams as fast as it can and counts those that the server got, per second.
func floodUp(o order) (answer, error) {
	conn, err := dial("udp", o.Target)
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
	ask, err := begin(o, opReceived, id)
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
func floodDown(o order) (answer, error) {
	conn, err := dial("udp", o.Target)
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
			conn, err := begin(o, opEcho, 0)
			if err != nil {
				return err
			}
			mu.Lock()
			c.held = append(c.held, conn)
			mu.Unlock()
			if err := exchange(conn, make([]byte, messageSize)); err != nil {
				return err
			}
		}
		return nil
	})
	return answer{Value: float64(len(c.held))}, err
}
