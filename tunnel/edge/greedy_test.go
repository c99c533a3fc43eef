package edge

import (
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus/hooks/test"

	"github.com/weir-dev/weir/tunnel"
	"github.com/weir-dev/weir/tunnel/creds"
	"github.com/weir-dev/weir/tunnel/session"
)

// TestPlacesToIntroduceOneself: strangers who say that they have a token, and then nothing, hold few places of one source, and none
// of those that clients have; a client that says nothing holds few as well. Others come in.
func TestPlacesToIntroduceOneself(t *testing.T) {
	e := newTestEdge(t)
	silent, other := e.enrol(t, "evil", "silent"), e.enrol(t, "acme", "laptop")
	token, err := e.store.NewToken(creds.TokenRequest{})
	if err != nil {
		t.Fatal(err)
	}
	tr := dialer(t)
	refused := func() uint64 { return e.Counters().HandshakesRefused.Load() }
	for range maxEnrollingOfOne + 4 {
		if _, err := tr.Dial(t.Context(), net.UDPAddrFromAddrPort(e.Addr()), creds.EnrollTLS(token, nil), session.QUICConfig(session.ClientRole, session.QUIC, false)); err != nil {
			t.Fatal(err)
		}
	}
	wait(t, "the stranger's bound", func() bool { return refused() == 4 })
	for range maxGreetingOfOne + 2 {
		if _, err := tr.Dial(t.Context(), net.UDPAddrFromAddrPort(e.Addr()), silent.TLS(), session.QUICConfig(session.ClientRole, session.QUIC, false)); err != nil {
			t.Fatal(err)
		}
	}
	wait(t, "the client's bound", func() bool { return refused() == 6 })
	for i := range 200 { // strangers from everywhere
		e.enrolling.take(netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), 32))
	}
	e.connect(t, other, session.ClientConfig{}, &handler{name: "other"})
}

// TestManyProcesses: a client that comes again and again, and does not let its sessions go, has few of them.
func TestManyProcesses(t *testing.T) {
	e := newTestEdge(t)
	c := e.enrol(t, "acme", "laptop")
	to := echo(t)
	var all []*laptop
	for i := range 3 * maxClientLeaving {
		all = append(all, e.connect(t, c, session.ClientConfig{Generation: uint64(i + 1)}, &handler{}))
		flow, err := e.Sandbox(owner("acme")).OpenStream(t.Context(), tunnel.Open{Network: "tcp", Addr: to})
		if err != nil {
			t.Fatal(err)
		}
		defer flow.Close()
	}
	for _, l := range all[:len(all)-1-maxClientLeaving] {
		ended(t, l)
		if code := tunnel.CodeOf(l.Err()); code != tunnel.Superseded {
			t.Errorf("it was told %v", code)
		}
	}
	select {
	case <-all[len(all)-2].Done():
		t.Error("the last one but one was not given time")
	default:
	}
}

// TestSpoofedAddresses: whoever sends first packets in the name of a client's address keeps the client out neither by QUIC nor by
// WebSocket, and gets little done.
func TestSpoofedAddresses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHandshakeLimits()
		victim := netip.MustParseAddr("192.0.2.1")
		done := 0
		for range 10 {
			for range 40 { // fewer than make everybody prove his address
				if !h.mustProve(victim) && h.allow(victim, false) {
					done++
				}
			}
			if !h.allow(victim, true) {
				t.Error("the victim is kept out")
			}
			time.Sleep(time.Second)
		}
		if done > unverifiedOfOne*6 {
			t.Errorf("%d handshakes were begun", done)
		}
	})
}

// TestNobodyToMoveTo: UDP flows whose client has gone for good wait for it, and cost the sandbox none of its opens.
func TestNobodyToMoveTo(t *testing.T) {
	e := newTestEdge(t)
	l := e.connect(t, e.enrol(t, "acme", "laptop"), session.ClientConfig{}, &handler{})
	box := e.Sandbox(owner("acme"))
	for range 10 {
		d, err := box.OpenDatagrams(t.Context(), tunnel.Open{Network: "udp", Addr: udpEcho(t)})
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		go d.Receive(make([]byte, 65507))
	}
	l.CloseWith(tunnel.Denied, "gone for good")
	wait(t, "the flows to ask", func() bool { return e.Counters().NoClient.Load() >= 10 })
	time.Sleep(2 * rehomeAgain)
	if n := e.Counters().NoClient.Load(); n > 100 {
		t.Errorf("they asked %d times", n)
	}
	if n := box.opens.Tokens(); n < opensBurst/2 {
		t.Errorf("%v opens are left", n)
	}
}

// TestComplaints: who is refused a thousand times fills no log with it, and it is said how often it was.
func TestComplaints(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newComplaints()
		log, lines := test.NewNullLogger()
		for range 1000 {
			c.say(log.WithField("remote", "192.0.2.1"), "refused")
		}
		if n := len(lines.Entries); n != complaintsBurst {
			t.Errorf("%d lines", n)
		}
		time.Sleep(time.Second)
		c.say(log.WithField("remote", "192.0.2.1"), "refused")
		if n := lines.LastEntry().Data["unsaid"]; n != uint64(1000-complaintsBurst) {
			t.Errorf("%v were not said", n)
		}
	})
}
