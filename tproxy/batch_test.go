//go:build linux

package tproxy

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/weir-dev/weir/flow"
	"github.com/weir-dev/weir/internal/testnet"
)

// echoBatches sends back what it gets.
type echoBatches struct{ c flow.BatchConn }

func (e echoBatches) TryBatch([][]byte) (int, error) { return 0, nil }
func (e echoBatches) WriteBatch(datagrams [][]byte) error {
	_, err := e.c.WriteBatch(datagrams)
	return err
}

// Datagrams pass by the batch as they would one by one: each whole, in order, from the address that they were sent to.
func TestBatches(t *testing.T) {
	for _, to := range []string{"192.0.2.1:13", "[2001:db8::1]:13"} {
		t.Run(to, func(t *testing.T) {
			serve(t, Limits{})
			c, err := net.Dial("udp", to)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if n, _, err := testnet.Datagrams(c, 65507, 150, 1); err != nil {
				t.Errorf("after %d datagrams: %v", n, err)
			}
		})
	}
}

// TestHandover: what the listener has not taken yet when a flow gets its own socket comes before what that socket has.
func TestHandover(t *testing.T) {
	for name, to := range map[string]string{
		"one by one": "192.0.2.1:7", "one by one, ipv6": "[2001:db8::1]:7", "batches": "192.0.2.1:13", "batches, ipv6": "[2001:db8::1]:13",
	} {
		t.Run(name, func(t *testing.T) {
			d := unserved(t)
			c, err := net.Dial("udp", to)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(20 * time.Second))
			for _, text := range []string{"a", "", "c"} {
				io.WriteString(c, text)
			}
			for _, l := range d.udp {
				l.raw.Control(func(fd uintptr) { l.take(fd) }) // and the others stay where they are
			}
			expect(t, c, "a") // so the flow has its socket
			io.WriteString(c, "d")
			io.WriteString(c, "e")
			for _, text := range []string{"", "c", "d", "e"} {
				expect(t, c, text)
			}
		})
	}
}

// unserved is a door whose listeners take only what they are told to.
func unserved(t *testing.T) *Door {
	t.Helper()
	d := newDoor(t, Limits{}, inside)
	t.Cleanup(func() {
		d.Close()
		d.flows.Wait()
	})
	for _, l := range d.udp {
		l.handler = &handler{}
	}
	return d
}

// expect reads one datagram.
func expect(t *testing.T, c net.Conn, text string) {
	t.Helper()
	b := make([]byte, 100)
	n, err := c.Read(b)
	if err != nil || string(b[:n]) != text {
		t.Fatalf("got %q, %v; want %q", b[:n], err, text)
	}
}

// TestManyHandovers: a burst of a new flow is whole and in order, wherever in it the flow gets its socket.
func TestManyHandovers(t *testing.T) {
	serve(t, Limits{})
	for i := range 500 {
		c, err := net.Dial("udp", []string{"192.0.2.1:13", "[2001:db8::1]:7"}[i%2])
		if err != nil {
			t.Fatal(err)
		}
		if n, _, err := testnet.Datagrams(c, 300, 1, uint64(i)); err != nil {
			t.Errorf("flow %d, after %d datagrams: %v", i, n, err)
		}
		c.Close()
	}
}
