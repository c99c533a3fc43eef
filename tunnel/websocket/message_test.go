package websocket

import (
	"bytes"
	"net/url"
	"testing"
)

func mustURL(s string) *url.URL {
	u, err := url.Parse(s)
	if err != nil {
		panic(err)
	}
	return u
}

func noProxy(*url.URL) (*url.URL, error) { return nil, nil }

// FuzzMessage: what check lets pass comes apart into as many packets as it says, none longer than the bound, and they make
// the same message again.
func FuzzMessage(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0, 0})
	f.Add([]byte{0, 3, 1, 2, 3, 0, 1, 9})
	f.Add([]byte{5, 0xdc})
	f.Add([]byte{0xff, 0xff, 1})
	f.Add(bytes.Repeat(appendPacket(nil, make([]byte, MaxPacket)), 4))
	f.Fuzz(func(t *testing.T, b []byte) {
		n, err := check(b)
		if err != nil {
			return
		}
		var again []byte
		count := 0
		for rest := b; len(rest) > 0; count++ {
			var p []byte
			if p, rest = nextPacket(rest); len(p) > MaxPacket {
				t.Fatalf("a packet of %d octets", len(p))
			}
			again = appendPacket(again, p)
		}
		if count != n || !bytes.Equal(again, b) {
			t.Fatalf("%d packets of %d", count, n)
		}
	})
}

// TestQueue: packets come out whole, in order, in messages within the bound, and no more wait than there is room for.
func TestQueue(t *testing.T) {
	q := newQueue()
	packet := make([]byte, MaxPacket)
	in := 0
	for q.push(packet) {
		in++
	}
	if in != QueueLen || q.push([]byte{1}) {
		t.Errorf("%d packets found room", in)
	}
	batch, more := q.take()
	if !more || q.push([]byte{1}) {
		t.Error("taken packets make room before they are written")
	}
	out := 0
	for len(batch) > 0 {
		var message []byte
		var n int
		message, batch, n = cut(batch)
		if k, err := check(message); k != n || err != nil || n == 0 || len(message) > MaxMessage {
			t.Fatalf("a message of %d octets with %d packets, %v", len(message), n, err)
		}
		out += n
		q.done(n)
	}
	if out != in || !q.push([]byte{1}) {
		t.Errorf("%d of %d packets came out", out, in)
	}
	if q.push(nil) || q.push(make([]byte, MaxPacket+1)) {
		t.Error("took what is no packet")
	}
	q.end()
	if q.push([]byte{1}) {
		t.Error("took a packet after the end")
	}
	if batch, more := q.take(); more || len(batch) != 3 {
		t.Errorf("%d octets at the end, more: %v", len(batch), more)
	}
}
