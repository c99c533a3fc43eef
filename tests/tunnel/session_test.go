//go:build linux

package tunnel

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/quic-go/quic-go"

	"github.com/weir-dev/weir/internal/impair"
	"github.com/weir-dev/weir/internal/testdns"
	"github.com/weir-dev/weir/tunnel"
	"github.com/weir-dev/weir/tunnel/localdns"
	"github.com/weir-dev/weir/tunnel/session"
)

// userEnd does for the edge whatever it is asked, from the laptop: there is no policy here.
type userEnd struct {
	dialer *net.Dialer
	p      *laptop
	dns    *localdns.Resolver
}

func (u *userEnd) Dial(ctx context.Context, o tunnel.Open) (net.Conn, error) {
	type dialled struct {
		net.Conn
		err error
	}
	done := make(chan dialled, 1)
	u.p.work <- func() {
		c, err := u.dialer.DialContext(ctx, o.Network, o.Addr.String())
		done <- dialled{c, err}
	}
	d := <-done
	return d.Conn, d.err
}

func (u *userEnd) Query(ctx context.Context, q tunnel.Query) ([]byte, error) {
	m := new(dns.Msg)
	if err := m.Unpack(q.Message); err != nil {
		return nil, err
	}
	r, err := u.dns.Exchange(ctx, m)
	if err != nil {
		return nil, err
	}
	return r.Pack()
}

// bare is a session without a policy and without credentials, to see what the network does to it.
type bare struct {
	edge   *session.Edge
	client *session.Client
}

// bareSession connects the laptop to the cloud.
func (l *lab) bareSession(t *testing.T, name string) bare {
	t.Helper()
	p := l.laptops[name]
	conf := nobodysCertificate(t)
	to := &quic.Transport{Conn: l.cloud.listenPacket(t, netip.AddrPortFrom(cloudAddr, 0))}
	from := &quic.Transport{Conn: p.listenPacket(t, netip.AddrPortFrom(netip.IPv4Unspecified(), 0))}
	listener, err := to.Listen(conf, session.QUICConfig(session.EdgeRole, session.QUIC, false))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	type accepted struct {
		*session.Edge
		err error
	}
	edge := make(chan accepted, 1)
	go func() {
		conn, err := listener.Accept(ctx)
		if err != nil {
			edge <- accepted{nil, err}
			return
		}
		e, err := session.Accept(ctx, conn, tunnel.Identity{Space: "default", Client: name}, session.EdgeConfig{})
		edge <- accepted{e, err}
	}()
	conn, err := from.Dial(ctx, to.Conn.LocalAddr(), conf, session.QUICConfig(session.ClientRole, session.QUIC, false))
	if err != nil {
		t.Fatalf("dial the cloud: %v", err)
	}
	resolver := localdns.New(localdns.Config{ResolvConf: p.dir + "/resolv.conf", Hosts: p.dir + "/hosts", Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
		return (&userEnd{dialer: &net.Dialer{}, p: p}).Dial(ctx, tunnel.Open{Network: network, Addr: netip.MustParseAddrPort(address)})
	}})
	c, err := session.Connect(ctx, conn, &userEnd{dialer: &net.Dialer{}, p: p, dns: resolver}, session.ClientConfig{Generation: 1})
	if err != nil {
		t.Fatalf("connect: %v", err)
	}
	e := <-edge
	if e.err != nil {
		t.Fatalf("accept: %v", e.err)
	}
	t.Cleanup(func() {
		e.CloseWith(tunnel.OK, "")
		c.CloseWith(tunnel.OK, "")
		listener.Close()
		from.Close()
		to.Close()
		resolver.Close()
	})
	return bare{e.Edge, c}
}

func nobodysCertificate(t *testing.T) *tls.Config {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}},
		NextProtos:   []string{tunnel.ALPN}, MinVersion: tls.VersionTLS13, InsecureSkipVerify: true,
	}
}

// transfer sends size octets to the office by a flow and checks their sum. during, if not nil, runs meanwhile.
func (b bare) transfer(t *testing.T, at netip.AddrPort, size int64, during func()) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	s, err := b.edge.OpenStream(ctx, tunnel.Open{Flow: "lab-1", Network: "tcp", Addr: at})
	if err != nil {
		t.Errorf("open: %v", err)
		return
	}
	defer s.Close()
	if during != nil {
		go during()
	}
	h := sha256.New()
	start := time.Now()
	if _, err := io.Copy(s, io.TeeReader(io.LimitReader(mathrand.NewChaCha8([32]byte{2}), size), h)); err != nil {
		t.Errorf("send: %v", err)
		return
	}
	s.CloseWrite()
	got, err := io.ReadAll(s)
	if err != nil || string(got) != fmt.Sprintf("%x", h.Sum(nil)) {
		t.Errorf("received %q, %v", got, err)
		return
	}
	t.Logf("%d octets, %.1f Mbit/s", size, float64(size)*8/time.Since(start).Seconds()/1e6)
}

// echoes sends datagrams of these sizes to the office's echo one at a time, each until it comes back, and returns how many
// had to be sent.
func (b bare) echoes(t *testing.T, sizes ...int) (sent int) {
	t.Helper()
	d, err := b.edge.OpenDatagrams(t.Context(), tunnel.Open{Flow: "lab-2", Network: "udp", Addr: netip.AddrPortFrom(officeEcho, 7)})
	if err != nil {
		t.Errorf("open: %v", err)
		return 0
	}
	defer d.Close()
	got := make(chan []byte, 1024)
	go func() {
		defer close(got)
		buf := make([]byte, 65507)
		for {
			n, err := d.Receive(buf)
			if err != nil {
				return
			}
			got <- bytes.Clone(buf[:n])
		}
	}()
	for i, size := range sizes {
		want := bytes.Repeat([]byte{byte(i + 1)}, size)
		deadline := time.After(30 * time.Second)
		for back := false; !back; {
			if err := d.Send(want); err != nil {
				t.Errorf("send %d octets: %v", size, err)
				return sent
			}
			sent++
			again := time.After(2 * time.Second)
			for waiting := true; waiting && !back; {
				select {
				case b, open := <-got:
					if !open {
						t.Errorf("the flow ended at %d octets", size)
						return sent
					}
					back = bytes.Equal(b, want)
				case <-again:
					waiting = false
				case <-deadline:
					t.Errorf("%d octets never came back, of datagrams up to %d", size, d.MaxDatagram())
					return sent
				}
			}
		}
	}
	return sent
}

// ask asks the laptop's resolver.
func (b bare) ask(t *testing.T) {
	t.Helper()
	raw, err := testdns.Question(staging, dns.TypeA, 0).Pack()
	if err != nil {
		t.Fatal(err)
	}
	answer, _, err := b.edge.Query(t.Context(), tunnel.Query{Message: raw})
	if err != nil {
		t.Errorf("query: %v", err)
		return
	}
	r := new(dns.Msg)
	if err := r.Unpack(answer); err != nil || len(testdns.Data(r)) != 1 {
		t.Errorf("answer %v %v", r, err)
	}
}

// TestNetworks: what a session carries comes whole however bad the network is: a transfer, datagrams, a DNS question.
func TestNetworks(t *testing.T) {
	const ms = time.Millisecond
	for _, c := range []struct {
		name string
		s    impair.Settings
		size int64
		long bool
	}{
		{"perfect", impair.Settings{}, 32 << 20, false},
		{"1 ms", impair.Settings{Delay: ms}, 8 << 20, false},
		{"loss of 0.1 %", impair.Settings{Delay: 5 * ms, Loss: 0.001}, 8 << 20, false},
		{"loss of 1 %", impair.Settings{Delay: 5 * ms, Loss: 0.01}, 4 << 20, false},
		{"loss of 5 %", impair.Settings{Delay: 5 * ms, Loss: 0.05}, 1 << 20, false},
		{"300 ms", impair.Settings{Delay: 150 * ms}, 4 << 20, false},
		{"reordered, twice, late", impair.Settings{Delay: 10 * ms, Jitter: 10 * ms, Reorder: 0.05, Duplicate: 0.02, Lag: 20 * ms}, 4 << 20, false},
		{"narrow", impair.Settings{Delay: 10 * ms, Rate: 10_000_000, Queue: 64 << 10}, 2 << 20, false},
		{"MTU 1280", impair.Settings{MTU: 1280}, 4 << 20, false},
		{"MTU 1400 that nobody is told of", impair.Settings{MTU: 1400, Silent: true}, 4 << 20, false},
		{"a phone in a train", impair.Settings{Delay: 80 * ms, Jitter: 80 * ms, Loss: 0.02, Reorder: 0.02, Duplicate: 0.01, Rate: 5_000_000}, 1 << 20, true},
		{"300 ms and 5 %", impair.Settings{Delay: 150 * ms, Loss: 0.05}, 1 << 20, true},
		{"1 Mbit/s", impair.Settings{Delay: 20 * ms, Rate: 1_000_000}, 1 << 20, true},
		{"100 Mbit/s", impair.Settings{Delay: 20 * ms, Rate: 100_000_000}, 32 << 20, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.long {
				long(t)
			}
			t.Parallel()
			l := newLab(t, "a")
			p := l.laptops["a"]
			p.link.SetBoth(c.s)
			b := l.bareSession(t, "a")
			b.ask(t)
			b.transfer(t, sumAt, c.size, nil)
			b.echoes(t, 0, 1, 1163, 1195, 1215, 1243, 1415, 1472, 9000, 65507)
			b.ask(t)
			t.Logf("up %+v", p.link.Counts(impair.Up))
			t.Logf("session %+v", b.edge.Stats())
		})
	}
}

// TestRebinding: the NAT gives the client other ports again and again in the middle of a transfer; no flow is lost.
func TestRebinding(t *testing.T) {
	t.Parallel()
	l := newLab(t, "a")
	p := l.laptops["a"]
	p.link.SetBoth(impair.Settings{Delay: 5 * time.Millisecond, Rate: 50_000_000})
	b := l.bareSession(t, "a")
	done := make(chan struct{})
	go func() {
		defer close(done)
		b.transfer(t, sumAt, 16<<20, nil)
	}()
	p.rebindDuring(t, done)
	<-done
	b.echoes(t, 1, 1000)
}

// TestHoles: nothing arrives for a while in the middle of a transfer. What is shorter than the idle timeout is waited out,
// what is longer ends the session, and its flows know it.
func TestHoles(t *testing.T) {
	for _, c := range []struct {
		hole  time.Duration
		lives bool
		long  bool
	}{{time.Second, true, false}, {5 * time.Second, true, true}, {20 * time.Second, false, true}} {
		t.Run(c.hole.String(), func(t *testing.T) {
			if c.long {
				long(t)
			}
			t.Parallel()
			l := newLab(t, "a")
			p := l.laptops["a"]
			narrow := impair.Settings{Rate: 50_000_000}
			p.link.SetBoth(narrow)
			b := l.bareSession(t, "a")
			fall := func() {
				time.Sleep(300 * time.Millisecond)
				p.link.SetBoth(impair.Settings{Blackhole: true})
				time.Sleep(c.hole)
				p.link.SetBoth(narrow)
			}
			if c.lives {
				b.transfer(t, sumAt, 8<<20, fall)
				return
			}
			s, err := b.edge.OpenStream(t.Context(), tunnel.Open{Flow: "lab-3", Network: "tcp", Addr: netip.AddrPortFrom(officeEcho, 7)})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			go fall()
			_, err = s.Read(make([]byte, 1))
			var lost *tunnel.Error
			if !errors.As(err, &lost) || lost.Code != tunnel.Lost {
				t.Errorf("the flow ended with %v", err)
			}
			<-b.client.Done()
		})
	}
}
