//go:build linux

package tests

import (
	"context"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/weir-dev/weir/internal/stub"
	"github.com/weir-dev/weir/tunnel"
	"github.com/weir-dev/weir/tunnel/handoff"
)

// standIn is an edge and a user's machine in one: it takes launchers as weir serve does, and carries what their data paths ask
// for from where it stands. With it the sandbox's half of the tunnel is tested without the other half.
type standIn struct {
	stub.Host
	datagram atomic.Int64 // the longest that fits into a packet

	mu    sync.Mutex
	opens []tunnel.Open
	fail  error // of every open

	streams []*standInStream
}

var standInClient = tunnel.Identity{Space: "default", Client: "stand-in"}

// serveStandIn returns it, and the environment of a weir that joins it.
func serveStandIn(t *testing.T) (*standIn, []string) {
	t.Helper()
	s := &standIn{}
	s.datagram.Store(1400)
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "weir"), 0o700); err != nil {
		t.Fatal(err)
	}
	ln, err := net.ListenUnix("unixpacket", &net.UnixAddr{Net: "unixpacket", Name: filepath.Join(dir, "weir", "edge.sock")})
	if err != nil {
		t.Fatal(err)
	}
	var work sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	work.Go(func() {
		for {
			c, err := ln.AcceptUnix()
			if err != nil {
				return
			}
			work.Go(func() { s.join(ctx, c) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		cancel()
		work.Wait()
	})
	return s, append(stateOf(t), "XDG_RUNTIME_DIR="+dir)
}

// join is one launcher, and then its data path.
func (s *standIn) join(ctx context.Context, c *net.UnixConn) {
	var who tunnel.Owner
	b := make([]byte, 4096)
	n, err := c.Read(b)
	if err != nil || json.Unmarshal(b[:n], &who) != nil {
		c.Close()
		return
	}
	c.Write([]byte("{}"))
	handoff.Serve(ctx, c, who, s, handoff.Options{})
}

// asked is what data paths have asked for.
func (s *standIn) asked() []tunnel.Open {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]tunnel.Open(nil), s.opens...)
}

// open dials, unless it is to fail.
func (s *standIn) open(ctx context.Context, o tunnel.Open) (net.Conn, error) {
	s.mu.Lock()
	s.opens = append(s.opens, o)
	fail := s.fail
	s.mu.Unlock()
	if fail != nil {
		return nil, fail
	}
	return (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, o.Network, o.Addr.String())
}

// lose ends all flows that are open as a tunnel does that breaks, and reports whether there were any.
func (s *standIn) lose() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, st := range s.streams {
		st.lose()
	}
	lost := len(s.streams) > 0
	s.streams = nil
	return lost
}

// OpenStream implements tunnel.Opener.
func (s *standIn) OpenStream(ctx context.Context, o tunnel.Open) (tunnel.Stream, error) {
	c, err := s.open(ctx, o)
	if err != nil {
		return nil, &tunnel.Error{Code: tunnel.CodeOf(err)}
	}
	st := &standInStream{Conn: c, tcp: c.(*net.TCPConn)}
	s.mu.Lock()
	s.streams = append(s.streams, st)
	s.mu.Unlock()
	return st, nil
}

// OpenDatagrams implements tunnel.Opener.
func (s *standIn) OpenDatagrams(ctx context.Context, o tunnel.Open) (tunnel.Datagrams, error) {
	c, err := s.open(ctx, o)
	if err != nil {
		return nil, &tunnel.Error{Code: tunnel.CodeOf(err)}
	}
	return &standInDatagrams{c.(*net.UDPConn), &s.datagram}, nil
}

// Query implements tunnel.Opener.
func (s *standIn) Query(ctx context.Context, q tunnel.Query) ([]byte, tunnel.Identity, error) {
	m := new(dns.Msg)
	if err := m.Unpack(q.Message); err != nil {
		return nil, standInClient, err
	}
	r, err := s.Host.Exchange(ctx, m)
	if err != nil {
		return nil, standInClient, tunnel.Errorf(tunnel.NameFailed, "%v", err)
	}
	r.Id = m.Id
	raw, err := r.Pack()
	return raw, standInClient, err
}

// standInStream is a TCP connection as a client's stream: errors come as codes.
type standInStream struct {
	net.Conn
	tcp  *net.TCPConn
	lost atomic.Bool
}

func (s *standInStream) By() tunnel.Identity { return standInClient }

func (s *standInStream) Abort(tunnel.Code) {
	s.tcp.SetLinger(0)
	s.Close()
}

// CloseWrite implements tunnel.Stream. That the far end has gone is for Read to find.
func (s *standInStream) CloseWrite() error {
	s.tcp.CloseWrite()
	return nil
}

func (s *standInStream) lose() {
	s.lost.Store(true)
	s.SetDeadline(time.Unix(1, 0))
}

func (s *standInStream) explain(err error) error {
	switch {
	case err == nil || err.Error() == "EOF":
		return err
	case s.lost.Load():
		return tunnel.Errorf(tunnel.Lost, "")
	}
	return &tunnel.Error{Code: tunnel.CodeOf(err), Text: err.Error()}
}

func (s *standInStream) Read(b []byte) (int, error) {
	n, err := s.Conn.Read(b)
	return n, s.explain(err)
}

func (s *standInStream) Write(b []byte) (int, error) {
	n, err := s.Conn.Write(b)
	return n, s.explain(err)
}

// standInDatagrams is a UDP socket as a client's flow.
type standInDatagrams struct {
	c        *net.UDPConn
	datagram *atomic.Int64
}

func (d *standInDatagrams) By() tunnel.Identity { return standInClient }
func (d *standInDatagrams) MaxDatagram() int    { return int(d.datagram.Load()) }
func (d *standInDatagrams) Close() error        { return d.c.Close() }

func (d *standInDatagrams) Send(b []byte) error {
	_, err := d.c.Write(b)
	return d.explain(err)
}

func (d *standInDatagrams) Receive(b []byte) (int, error) {
	n, err := d.c.Read(b)
	return n, d.explain(err)
}

func (d *standInDatagrams) explain(err error) error {
	if err == nil {
		return nil
	}
	return &tunnel.Error{Code: tunnel.CodeOf(err)}
}
