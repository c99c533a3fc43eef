package session

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/weir-dev/weir/tunnel"
)

// udpEcho is a server that sends back what it gets.
func udpEcho(t testing.TB) netip.AddrPort {
	t.Helper()
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	c.SetReadBuffer(4 << 20)
	t.Cleanup(func() { c.Close() })
	go func() {
		b := make([]byte, 65536)
		for {
			n, from, err := c.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			c.WriteToUDPAddrPort(b[:n], from)
		}
	}()
	return c.LocalAddr().(*net.UDPAddr).AddrPort()
}

// sizes are those of the checklist: around what fits into packets of 1200, 1232, 1252, 1280 and 1452 octets, and the extremes.
var sizes = []int{0, 1, 1163, 1195, 1215, 1243, 1415, 1472, 9000, 65507}

// TestDatagramSizes: datagrams of every size come back as they went, over paths with packets of every size.
func TestDatagramSizes(t *testing.T) {
	for _, packet := range []uint16{1200, 1232, 1252, 1280, 1452} {
		t.Run(fmt.Sprint(packet), func(t *testing.T) {
			c := configs{QUICConfig(EdgeRole, QUIC, false), QUICConfig(ClientRole, QUIC, false)}
			for _, q := range []*struct{ size *uint16 }{{&c.edge.InitialPacketSize}, {&c.client.InitialPacketSize}} {
				*q.size = packet
			}
			c.edge.DisablePathMTUDiscovery, c.client.DisablePathMTUDiscovery = true, true
			a, b := loopback(t)
			edge, client := connected(t, a, b, c)
			e, _ := joined(t, edge, client, dialer)
			d, err := e.OpenDatagrams(context.Background(), tunnel.Open{Network: "udp", Addr: udpEcho(t)})
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			if max := d.MaxDatagram(); max != int(packet)-37-3 && max != int(packet)-37-2 {
				t.Errorf("datagrams of up to %d octets fit into packets of %d", max, packet)
			}
			b2 := make([]byte, 65535)
			for _, size := range sizes {
				sent := bytes.Repeat([]byte{byte(size)}, size)
				if err := d.Send(sent); err != nil {
					t.Fatal(err)
				}
				n, err := receive(t, d, b2)
				if err != nil || !bytes.Equal(b2[:n], sent) {
					t.Errorf("a datagram of %d octets came back with %d: %v", size, n, err)
				}
			}
		})
	}
}

// receive fails the test when nothing comes.
func receive(t *testing.T, d tunnel.Datagrams, b []byte) (int, error) {
	t.Helper()
	stop := time.AfterFunc(10*time.Second, func() { d.Close() })
	defer stop.Stop()
	return d.Receive(b)
}

// TestDatagramsRefused: that nobody listens is known at the other end.
func TestDatagramsRefused(t *testing.T) {
	e, c := ends(t, dialer)
	closed, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	to := closed.LocalAddr().(*net.UDPAddr).AddrPort()
	closed.Close()
	d, err := e.OpenDatagrams(context.Background(), tunnel.Open{Network: "udp", Addr: to})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Send([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, err := receive(t, d, make([]byte, 65535)); tunnel.CodeOf(err) != tunnel.Refused {
		t.Errorf("nobody listens: %v", err)
	}
	if err := d.Send([]byte("hello")); tunnel.CodeOf(err) != tunnel.Refused {
		t.Errorf("sending after that: %v", err)
	}
	nothingLeft(t, e, c)
}

// nothingLeft waits until both ends have forgotten all flows.
func nothingLeft(t *testing.T, e *Edge, c *Client) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		e.exchange.mu.Lock()
		c.exchange.mu.Lock()
		known := len(e.exchange.flows) + len(c.exchange.flows)
		c.exchange.mu.Unlock()
		e.exchange.mu.Unlock()
		flows := e.Stats().Flows + c.Stats().Flows
		if known+flows == 0 {
			return
		}
		if time.Now().After(end) {
			t.Errorf("%d flows are counted, %d known", flows, known)
			return
		}
	}
}
