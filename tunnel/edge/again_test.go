package edge

import (
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weir-dev/weir/tunnel"
	"github.com/weir-dev/weir/tunnel/creds"
	"github.com/weir-dev/weir/tunnel/session"
)

// enrolAgain makes a client of a name that is in use.
func (e *testEdge) enrolAgain(t testing.TB, space, name string) *creds.Client {
	t.Helper()
	token, err := e.store.NewToken(creds.TokenRequest{Space: space, Client: name})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := dialer(t).Dial(t.Context(), net.UDPAddrFromAddrPort(e.Addr()), creds.EnrollTLS(token, nil), session.QUICConfig(session.ClientRole, session.QUIC, false))
	if err != nil {
		t.Fatal(err)
	}
	c, err := creds.Enroll(t.Context(), conn, creds.EnrollRequest{Token: token, ClientConfig: creds.ClientConfig{Dir: t.TempDir() + "/client"}})
	if err != nil {
		t.Fatal(err)
	}
	return c.Client
}

// ended waits for the end of a session.
func ended(t testing.TB, l *laptop) {
	t.Helper()
	wait(t, "the session to end", func() bool {
		select {
		case <-l.Done():
			return true
		default:
			return false
		}
	})
}

// TestEnrolledAgain: another machine gets the name of one that is connected. The first one's session ends, whatever
// generation it claims, and it does not keep the second one out.
func TestEnrolledAgain(t *testing.T) {
	e := newTestEdge(t)
	first := e.connect(t, e.enrol(t, "acme", "laptop"), session.ClientConfig{Generation: 1 << 60}, &handler{name: "first"})
	c := e.enrolAgain(t, "acme", "laptop")
	second := e.connect(t, c, session.ClientConfig{Generation: 1}, &handler{name: "second"})
	ended(t, first)
	if code := tunnel.CodeOf(first.Err()); code != tunnel.Revoked {
		t.Errorf("the first one was told %v", code)
	}
	if answer, _, err := e.Sandbox(owner("acme")).Query(t.Context(), tunnel.Query{Message: question}); string(answer) != "second who are you?" {
		t.Errorf("%q, %v answered", answer, err)
	}
	select {
	case <-second.Done():
		t.Errorf("the second one has ended: %v", second.Err())
	default:
	}
}

// TestEnrolledAgainAndAway: the first one's session ends also when nobody comes in its place.
func TestEnrolledAgainAndAway(t *testing.T) {
	e := newTestEdge(t)
	first := e.connect(t, e.enrol(t, "acme", "laptop"), session.ClientConfig{}, &handler{})
	e.enrolAgain(t, "acme", "laptop")
	ended(t, first)
	if code := tunnel.CodeOf(first.Err()); code != tunnel.Revoked {
		t.Errorf("it was told %v", code)
	}
}

// TestRenewalInBand: a client gets its next certificate over its session, by an authority that has come since, and connects with
// it; the session and its flow go on.
func TestRenewalInBand(t *testing.T) {
	var ahead atomic.Int64
	clock := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	store, err := creds.OpenStore(creds.StoreConfig{Dir: t.TempDir() + "/edge", Create: true, Clock: clock})
	if err != nil {
		t.Fatal(err)
	}
	e := &testEdge{store: store}
	e.listen(t, "127.0.0.1:0")
	c := e.enrol(t, "acme", "laptop")
	l := e.connect(t, c, session.ClientConfig{Generation: 1}, &handler{})
	flow, err := e.Sandbox(owner("acme")).OpenStream(t.Context(), tunnel.Open{Network: "tcp", Addr: echo(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer flow.Close()
	authorities, err := store.Rotate(false)
	if err != nil {
		t.Fatal(err)
	}
	renew := func() error {
		csr, err := c.CSR()
		if err != nil {
			return err
		}
		chain, err := l.Renew(t.Context(), csr)
		if err != nil {
			return err
		}
		return c.Install(chain)
	}
	if err := renew(); err == nil {
		t.Error("a certificate at once")
	}
	ahead.Store(int64(2 * time.Minute)) // not more than clocks may be apart
	before := c.Expires()
	if err := renew(); err != nil {
		t.Fatal(err)
	}
	if !c.Expires().After(before) || c.TLS().ServerName == "" || len(authorities) != 2 {
		t.Errorf("expires at %v, before that at %v", c.Expires(), before)
	}
	if _, err := flow.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := flow.Read(make([]byte, 1)); err != nil {
		t.Errorf("the flow: %v", err)
	}
	e.connect(t, c, session.ClientConfig{Generation: 2}, &handler{})
}

// TestRevokedWhileLeaving: a session that drains because a later process has come, for the sake of its flows, is revoked as well.
func TestRevokedWhileLeaving(t *testing.T) {
	e := newTestEdge(t)
	c := e.enrol(t, "acme", "laptop")
	first := e.connect(t, c, session.ClientConfig{Generation: 1}, &handler{})
	flow, err := e.Sandbox(owner("acme")).OpenStream(t.Context(), tunnel.Open{Network: "tcp", Addr: echo(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer flow.Close()
	e.connect(t, c, session.ClientConfig{Generation: 2}, &handler{})
	if _, err := flow.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := flow.Read(make([]byte, 1)); err != nil {
		t.Fatalf("the flow of a session that drains: %v", err)
	}
	if err := e.store.Revoke(c.Identity()); err != nil {
		t.Fatal(err)
	}
	if _, err := flow.Read(make([]byte, 1)); tunnel.CodeOf(err) != tunnel.Revoked && tunnel.CodeOf(err) != tunnel.Lost {
		t.Errorf("the flow ended with %v", err)
	}
	ended(t, first)
}
