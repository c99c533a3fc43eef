//go:build linux

package main

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// attacks are what a program without privileges can do to tire out its data path, as fast as it can. Each func is called
// again and again by attackers goroutines.
var attacks = []struct {
	name  string
	again func(state *attacker)
}{
	{"none", nil},
	{"spin", func(*attacker) { spin(10 * time.Millisecond) }}, // no network at all: what the processor alone costs
	{"denied flows", func(*attacker) { connect(fmt.Sprintf("%s:%d", secret, 1+rand.IntN(60000))) }},
	{"denied hosts", func(*attacker) { connect(fmt.Sprintf("198.18.%d.%d:443", rand.IntN(256), rand.IntN(256))) }},
	{"allowed flows", func(*attacker) { connect(server.String() + ":7") }},
	{"half-open", func(*attacker) { net.DialTimeout("tcp", hole.String()+":80", 50*time.Millisecond) }},
	{"silent flows", silence},
	{"udp ports", func(a *attacker) { a.datagram(fmt.Sprintf("%s:%d", hole, 1+rand.IntN(65000)), []byte("x")) }},
	{"denied udp", func(a *attacker) { a.datagram(fmt.Sprintf("%s:%d", secret, 1+rand.IntN(65000)), []byte("x")) }},
	{"fragments", func(a *attacker) { a.datagram(hole.String()+":9", make([]byte, 60000)) }},
	{"dns denied", func(a *attacker) { a.question(fmt.Sprintf("x%d.leak.example", rand.Uint32())) }},
	{"dns allowed", func(a *attacker) { a.question(fmt.Sprintf("x%d.churn.example", rand.Uint32())) }},
	{"upload", upload},
}

const attackers = 16

// attacker is one goroutine's own things.
type attacker struct {
	udp  net.PacketConn
	held []net.Conn
}

// attackMain obeys orders "NAME" for one attack, and "none" for quiet. The answer is how often the last one was made.
func attackMain([]string) error {
	in := bufio.NewScanner(os.Stdin)
	var stop chan struct{}
	var work sync.WaitGroup
	var made atomic.Int64
	for in.Scan() {
		if stop != nil {
			close(stop)
			work.Wait()
			stop = nil
		}
		fmt.Println(made.Swap(0))
		i := slices.IndexFunc(attacks, func(a struct {
			name  string
			again func(*attacker)
		}) bool {
			return a.name == in.Text()
		})
		if i < 0 || attacks[i].again == nil {
			continue
		}
		end := make(chan struct{})
		stop = end
		for range attackers {
			work.Go(func() {
				a := &attacker{}
				defer a.close()
				for {
					select {
					case <-end:
						return
					default:
						attacks[i].again(a)
						made.Add(1)
					}
				}
			})
		}
	}
	return nil
}

func (a *attacker) close() {
	for _, c := range a.held {
		c.Close()
	}
	if a.udp != nil {
		a.udp.Close()
	}
}

func connect(to string) {
	if c, err := net.DialTimeout("tcp", to, 5*time.Second); err == nil {
		c.Close()
	}
}

// silence opens flows that never say a word, and keeps a thousand of them.
func silence(a *attacker) {
	c, err := quick("tcp", server.String()+":7")
	if err != nil {
		time.Sleep(time.Millisecond)
		return
	}
	if a.held = append(a.held, c); len(a.held) > 1000/attackers {
		a.held[0].Close()
		a.held = a.held[1:]
	}
}

func upload(a *attacker) {
	c, err := quick("tcp", server.String()+":7")
	if err != nil {
		return
	}
	defer c.Close()
	go io.Copy(io.Discard, c)
	c.SetDeadline(time.Now().Add(100 * time.Millisecond))
	for buf := make([]byte, 64<<10); ; {
		if _, err := c.Write(buf); err != nil {
			return
		}
	}
}

func spin(d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); {
	}
}

func (a *attacker) datagram(to string, b []byte) {
	if a.udp == nil {
		a.udp, _ = net.ListenPacket("udp4", ":0")
		go func(pc net.PacketConn) {
			for buf := make([]byte, 2048); ; {
				if _, _, err := pc.ReadFrom(buf); err != nil {
					return
				}
			}
		}(a.udp)
	}
	if at, err := net.ResolveUDPAddr("udp4", to); err == nil {
		a.udp.WriteTo(b, at)
	}
}

// question sends one to the sandbox's resolver and waits for nothing.
func (a *attacker) question(name string) {
	b := binary.BigEndian.AppendUint16(nil, uint16(rand.Uint32()))
	b = append(b, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0)
	for label := range strings.SplitSeq(name, ".") {
		b = append(append(b, byte(len(label))), label...)
	}
	a.datagram("10.77.0.1:53", append(b, 0, 0, 1, 0, 1))
}
