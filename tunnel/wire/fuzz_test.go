package wire

import (
	"bytes"
	"errors"
	"io"
	"reflect"
	"testing"

	"github.com/weir-dev/weir/tunnel"
)

// refused fails the test for an error that is neither malformed nor an early end.
func refused(t *testing.T, err error) {
	t.Helper()
	var e *tunnel.Error
	if err != io.EOF && err != io.ErrUnexpectedEOF && (!errors.As(err, &e) || e.Code != tunnel.Malformed) {
		t.Errorf("refused with %v", err)
	}
}

func FuzzVarint(f *testing.F) {
	for _, s := range []string{"", "\x25", "\x40\x25", "\x7b", "\xc2\x19\x7c\x5e\xff\x14\xe8\x8c"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		v, n := ParseVarint(b)
		got, err := ReadVarint(bytes.NewReader(b))
		if (n > 0) != (err == nil) || got != v {
			t.Fatalf("%x: %d with %d octets, but %d, %v", b, v, n, got, err)
		}
		if n > 0 {
			if again, _ := ParseVarint(AppendVarint(nil, v)); again != v {
				t.Fatalf("%d became %d", v, again)
			}
		}
	})
}

func FuzzHeader(f *testing.F) {
	f.Add(AppendHeader(nil, aHeader))
	f.Add(AppendHeader(nil, Header{Kind: DNS}))
	f.Add([]byte("\x01\x50\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := ReadHeader(bytes.NewReader(b))
		if err != nil {
			refused(t, err)
			return
		}
		if h.Kind > Probe || h.Kind == 4 || h.Kind == Control {
			return
		}
		again, err := ReadHeader(bytes.NewReader(AppendHeader(nil, h)))
		if err != nil || !sameButEmpty(again, h) {
			t.Fatalf("%+v came back as %+v, %v", h, again, err)
		}
	})
}

// sameButEmpty compares headers; a name without octets is not sent.
func sameButEmpty(a, b Header) bool {
	var names []string
	for _, n := range b.Open.Names {
		if n != "" {
			names = append(names, n)
		}
	}
	b.Open.Names = names
	return reflect.DeepEqual(a, b)
}

func FuzzStatus(f *testing.F) {
	f.Add(AppendStatus(nil, Status{Code: tunnel.Denied, Text: "rule 3"}))
	f.Add(AppendStatus(AppendGrease(nil, 1), Status{Resolved: aHeader.Open.Addr}))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ReadStatus(bytes.NewReader(b))
		if err != nil {
			refused(t, err)
			return
		}
		if again, err := ReadStatus(bytes.NewReader(AppendStatus(nil, s))); err != nil || again != s {
			t.Fatalf("%+v came back as %+v, %v", s, again, err)
		}
	})
}

func FuzzMessage(f *testing.F) {
	for _, m := range messages {
		f.Add(AppendMessage(nil, m))
	}
	f.Add(AppendGrease(nil, 9))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ReadMessage(bytes.NewReader(b))
		if err != nil {
			refused(t, err)
			return
		}
		if m == nil {
			return
		}
		again, err := ReadMessage(bytes.NewReader(AppendMessage(nil, m)))
		if err != nil || !bytes.Equal(AppendMessage(nil, again), AppendMessage(nil, m)) {
			t.Fatalf("%+v came back as %+v, %v", m, again, err)
		}
	})
}

func FuzzDatagram(f *testing.F) {
	f.Add(append(AppendDatagramHeader(nil, 5), "hi"...))
	f.Add([]byte{0x40})
	f.Fuzz(func(t *testing.T, b []byte) {
		stream, context, payload, ok := ParseDatagram(b)
		if !ok && (stream|context != 0 || payload != nil) {
			t.Fatalf("%d %d %x of no datagram", stream, context, payload)
		}
		if ok && context == ContextPayload {
			again, _, p, ok := ParseDatagram(append(AppendDatagramHeader(nil, stream), payload...))
			if again != stream || !bytes.Equal(p, payload) || !ok {
				t.Fatalf("%x came back as %d %x", b, again, p)
			}
		}
	})
}

func FuzzCapsule(f *testing.F) {
	f.Add(append(AppendCapsuleHeader(nil, 2), "hi"...))
	f.Add(append(appendFrame(nil, 77, []byte("abc")), append(AppendCapsuleHeader(nil, 2), "hi"...)...))
	f.Add(AppendVarint([]byte{0}, MaxCapsule+1))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, buf := bytes.NewReader(b), make([]byte, MaxPayload)
		for {
			if _, err := ReadCapsule(r, buf); err != nil {
				refused(t, err)
				return
			}
		}
	})
}
