package flow_test

import (
	"context"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/weir-dev/weir/flow"
	"github.com/weir-dev/weir/flow/policy"
)

// packetPair returns two ends between which each Write is one Read.
func packetPair(t *testing.T) (a, b net.Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "packets")
		c, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		ends[i] = struct{ net.Conn }{c} // no descriptor to read from: the end of a stream is no datagram
	}
	return ends[0], ends[1]
}

type dialerFunc func() (net.Conn, error)

func (d dialerFunc) DialContext(context.Context, string, string) (net.Conn, error) { return d() }

// sendDatagrams lets a UDP flow arrive and returns what of it left.
func (w *world) sendDatagrams(dst netip.AddrPort, datagrams ...string) (left []string) {
	inside, gates := packetPair(w.t)
	upstream, server := packetPair(w.t)
	w.gate.Routes["direct"] = dialerFunc(func() (net.Conn, error) { return upstream, nil })
	for _, d := range datagrams {
		if _, err := inside.Write([]byte(d)); err != nil {
			w.t.Fatal(err)
		}
	}
	inside.Close()
	w.gate.Handle(context.Background(), flow.Arrival{
		Network: "udp", Src: source, Dst: dst,
		Accept: func() (net.Conn, error) { return gates, nil },
		Reject: func(flow.Reason) error { return gates.Close() },
	})
	upstream.Close()
	for buf := make([]byte, 2000); ; {
		n, err := server.Read(buf)
		if err != nil {
			return left
		}
		left = append(left, string(buf[:n]))
	}
}

// A QUIC packet whose name cannot be read, for its version or because the connection began elsewhere, may carry one that
// nobody judged. Audit says so and lets it pass.
func TestUnreadableQUIC(t *testing.T) {
	const unread = "\xc3\xfa\xce\xb0\x02\x08destined\x00" // and what follows is sealed
	for _, c := range []struct {
		name     string
		mode     string
		rule     string
		dst      netip.AddrPort
		send     []string
		left     []string
		connects []string
	}{
		{"at once", "enforce", "good.example", goodAddr, []string{unread}, nil, []string{"deny no-evidence good.example dns"}},
		{"after something else", "enforce", "good.example", goodAddr, []string{"\x00", unread, "\x01"}, []string{"\x00", "\x01"}, []string{"allow  good.example dns"}},
		{"where the address decides", "enforce", "192.0.2.1:443", goodAddr, []string{unread, unread}, []string{unread, unread}, []string{"allow  good.example dns"}},
		{"another protocol's port", "enforce", "good.example:3478", netip.AddrPortFrom(goodAddr.Addr(), 3478), []string{unread}, []string{unread}, []string{"allow  good.example dns"}},
		{"audit", "audit", "good.example", goodAddr, []string{unread, unread}, []string{unread, unread}, []string{"would-deny no-evidence good.example dns"}},
		{"no Initial before", "enforce", "good.example", goodAddr, []string{"\x40"}, nil, []string{"deny no-evidence good.example dns"}},
		{"no Initial before, audit", "audit", "good.example", goodAddr, []string{"\x40"}, []string{"\x40"}, []string{"would-deny no-evidence good.example dns"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t, policy.Config{Mode: c.mode, Allow: []string{c.rule}})
			w.asked[c.dst.Addr()] = []string{"good.example"}
			if left := w.sendDatagrams(c.dst, c.send...); !slices.Equal(left, c.left) {
				t.Errorf("%q left, want %q", left, c.left)
			}
			if got := w.connects(); !slices.Equal(got, c.connects) {
				t.Errorf("network-connect: %q, want %q", got, c.connects)
			}
		})
	}
}
