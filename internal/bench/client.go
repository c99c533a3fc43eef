//go:build linux

package bench

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// order is one line on the client's stdin.
type order struct {
	What    string        // hello, up, down, rr, crr, connect, udp-up, udp-down, paced-up, paced-down, idle, release
	Target  string        // host:port of the server
	Streams int           // connections at once
	Rate    int           // datagrams a second of a paced load
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
	flows atomic.Int64      // that dial has opened
	free  sync.Pool         // of transfer buffers
	addrs map[string]string // of names that were looked up
}

func newClient() *client {
	return &client{addrs: map[string]string{}, free: sync.Pool{New: func() any { b := make([]byte, chunkSize); return &b }}}
}

func clientMain([]string) error { return newClient().serve(os.Stdin, os.Stdout) }

// serve obeys until its orders end.
func (c *client) serve(orders io.Reader, answers io.Writer) error {
	dec, enc := json.NewDecoder(orders), json.NewEncoder(answers)
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
		a.Flows = int(c.flows.Load())
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
		return answer{Value: float64(mtu(o.Target))}, nil
	case "up":
		return transfer(o, c.up)
	case "down":
		return transfer(o, c.down)
	case "rr":
		return c.roundTrips(o)
	case "crr":
		return c.connections(o)
	case "udp-up":
		return c.floodUp(o)
	case "udp-down":
		return c.floodDown(o)
	case "paced-up":
		return c.pacedUp(o)
	case "paced-down":
		return c.pacedDown(o)
	case "connect":
		return c.connects(o)
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

// mtu is that of the interface by which the client talks to target.
func mtu(target string) int {
	conn, err := net.Dial("udp", target)
	if err != nil {
		return 0
	}
	defer conn.Close()
	links, _ := net.Interfaces()
	for _, l := range links {
		addrs, _ := l.Addrs()
		for _, a := range addrs {
			if p, ok := a.(*net.IPNet); ok && p.IP.Equal(conn.LocalAddr().(*net.UDPAddr).IP) {
				return l.MTU
			}
		}
	}
	return 0
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

// patience is how long anything may take beyond its time: a subject that hangs must not hang the run.
const patience = 5 * time.Second

func (c *client) dial(o order, network string) (net.Conn, error) {
	conn, err := net.DialTimeout(network, o.Target, patience)
	if err != nil {
		return nil, err
	}
	c.flows.Add(1)
	return conn, conn.SetDeadline(time.Now().Add(o.For + patience))
}

func (c *client) begin(o order, op byte, arg uint64) (net.Conn, error) {
	conn, err := c.dial(o, "tcp")
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
	conn, err := c.begin(o, opSink, 0)
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
	conn, err := c.begin(o, opSource, uint64(o.For))
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
