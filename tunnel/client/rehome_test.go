//go:build linux

package client

import (
	"net"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/weir-dev/weir/tunnel"
	"github.com/weir-dev/weir/tunnel/creds"
	"github.com/weir-dev/weir/tunnel/edge"
	"github.com/weir-dev/weir/tunnel/session"
)

// TestRehomingOverSessions: over a real edge and real sessions, a UDP flow keeps its socket when the tunnel is lost, and its peer
// sees the same port.
func TestRehomingOverSessions(t *testing.T) {
	at := udpServer(t)
	m := newMachine(t, Rules{Allow: []string{at.String()}}, nil)
	store, err := creds.OpenStore(creds.StoreConfig{Dir: t.TempDir() + "/keys", Create: true})
	if err != nil {
		t.Fatal(err)
	}
	udp, tcp, err := edge.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e, err := edge.New(edge.Config{UDP: udp, TCP: tcp, Store: store})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	transport := func() *quic.Transport {
		c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		tr := &quic.Transport{Conn: c}
		t.Cleanup(func() { tr.Close(); c.Close() })
		return tr
	}
	config := session.QUICConfig(session.ClientRole, session.QUIC, false)
	token, err := store.NewToken(creds.TokenRequest{Space: "acme"})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := transport().Dial(t.Context(), net.UDPAddrFromAddrPort(e.Addr()), creds.EnrollTLS(token, nil), config)
	if err != nil {
		t.Fatal(err)
	}
	who, err := creds.Enroll(t.Context(), conn, creds.EnrollRequest{Token: token, Name: "laptop", ClientConfig: creds.ClientConfig{Dir: t.TempDir() + "/client"}})
	if err != nil {
		t.Fatal(err)
	}
	connect := func(generation uint64) *session.Client {
		tr := transport()
		conn, err := tr.Dial(t.Context(), net.UDPAddrFromAddrPort(e.Addr()), who.TLS(), config)
		if err != nil {
			t.Fatal(err)
		}
		s, err := session.Connect(t.Context(), conn, m.Handler, session.ClientConfig{Transport: session.QUIC, Generation: generation})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.CloseWith(tunnel.OK, "") })
		return s
	}
	first := connect(1)
	eventually(t, "the client is known", func() bool { return len(e.Clients()) == 1 })
	flow, err := e.Sandbox(tunnel.Owner{Space: "acme", App: "a", Sandbox: "s"}).OpenDatagrams(t.Context(), tunnel.Open{Flow: "s-1", Network: "udp", Addr: at})
	if err != nil {
		t.Fatal(err)
	}
	defer flow.Close()
	answers := make(chan string, 1000)
	go func() {
		defer close(answers)
		b := make([]byte, 65507)
		for {
			n, err := flow.Receive(b)
			if err != nil {
				return
			}
			answers <- string(b[:n])
		}
	}()
	// answer sends until something comes back: what is sent while there is no tunnel is lost.
	answer := func() string {
		t.Helper()
		for range 1000 {
			flow.Send([]byte("x"))
			select {
			case a := <-answers:
				return a
			case <-time.After(10 * time.Millisecond):
			}
		}
		t.Fatal("nothing comes back")
		return ""
	}
	before := answer()
	first.CloseWith(tunnel.Lost, "")
	eventually(t, "the socket waits", func() bool { return m.park.len() == 1 })
	connect(2)
	eventually(t, "the flow has moved", func() bool { return e.Counters().Rehomed.Load() == 1 })
	for len(answers) > 0 {
		<-answers
	}
	if after := answer(); after != before {
		t.Errorf("the server saw %q, and %q before", after, before)
	}
	if m.park.len() != 0 || len(m.Flows()) != 1 {
		t.Errorf("%d wait, %d are open", m.park.len(), len(m.Flows()))
	}
}
