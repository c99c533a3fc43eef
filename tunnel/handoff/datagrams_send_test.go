//go:build linux

package handoff

import (
	"encoding/binary"
	"errors"
	"testing"
	"time"

	"github.com/weir-dev/weir/tunnel"
)

// numbered are count datagrams that say which they are, from first on.
func numbered(first, count, size int) (list [][]byte) {
	for i := range count {
		b := make([]byte, size)
		binary.BigEndian.PutUint32(b, uint32(first+i))
		list = append(list, b)
	}
	return list
}

// TestSendSome: who has a queue of its own loses nothing to an edge that is slow: it is told how much was taken, and goes on
// from there.
func TestSendSome(t *testing.T) {
	c, fake := &fakeClient{}, newFakeDatagrams()
	d := newEdge(t, c, Options{}, true).openDatagrams(t, c, fake)
	const size = 1200
	var octets int64
	sent := 0
	for { // until nobody takes any more: the fake has taken 1024, and the socket is full
		n, o, err := d.SendSome(numbered(sent, 100, size), false)
		if err != nil {
			t.Fatal(err)
		}
		if sent, octets = sent+n, octets+o; n < 100 {
			// The edge may be on its way still: it is full when nothing is taken for a while.
			time.Sleep(20 * time.Millisecond)
			if n, o, _ = d.SendSome(numbered(sent, 100, size), false); n == 0 {
				break
			}
			sent, octets = sent+n, octets+o
		}
	}
	if octets != int64(sent)*size || sent < 1024 || d.Dropped() != 0 {
		t.Fatalf("%d datagrams with %d octets were taken, %d dropped", sent, octets, d.Dropped())
	}
	if n, _, err := d.SendSome(numbered(sent, 1, size), true); n != 1 || err != nil || d.Dropped() != 1 {
		t.Errorf("one that waited in vain: %d, %v, %d dropped", n, err, d.Dropped())
	}
	done := make(chan int)
	go func() {
		n, _, err := d.SendSome(append(numbered(sent, 50, size), make([]byte, 65508)), true)
		if err != nil {
			t.Error(err)
		}
		done <- n
	}()
	for want := range sent + 50 {
		if got := binary.BigEndian.Uint32(<-fake.sent); int(got) != want {
			t.Fatalf("datagram %d came as number %d", got, want)
		}
	}
	if n := <-done; n != 51 {
		t.Errorf("done with %d of 51, the last of which no UDP carries", n)
	}
}

// TestSendSomeEnds: the end of the flow is told to who sends, too.
func TestSendSomeEnds(t *testing.T) {
	c, fake := &fakeClient{}, newFakeDatagrams()
	d := newEdge(t, c, Options{}, true).openDatagrams(t, c, fake)
	fake.end <- tunnel.Errorf(tunnel.Refused, "")
	if _, err := d.Receive(make([]byte, 1)); tunnel.CodeOf(err) != tunnel.Refused {
		t.Errorf("receive: %v", err)
	}
	_, _, err := d.SendSome(numbered(0, 1, 10), true)
	var e *tunnel.Error
	if !errors.As(err, &e) || e.Code != tunnel.Refused {
		t.Errorf("send: %v", err)
	}
}
