package edge

import (
	"net"
	"testing"

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
