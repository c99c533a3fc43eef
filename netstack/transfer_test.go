package netstack

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/weir-dev/weir/flow"
	"github.com/weir-dev/weir/internal/relay"
)

// halfCloser is a TCP connection of any kind.
type halfCloser interface {
	net.Conn
	CloseWrite() error
}

// transferSize is how much one direction of one connection carries.
func transferSize() int64 {
	if testing.Short() {
		return 4 << 20
	}
	return 16 << 20
}

// pattern is size bytes that depend on seed, read in pieces of random sizes.
type pattern struct {
	rnd   *rand.ChaCha8
	sizes *rand.Rand
	left  int64
}

func newPattern(seed uint64, size int64) *pattern {
	return &pattern{rnd: rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)}), sizes: rand.New(rand.NewPCG(seed, 1)), left: size}
}

func (p *pattern) Read(b []byte) (int, error) {
	if p.left == 0 {
		return 0, io.EOF
	}
	n := min(len(b), 1+p.sizes.IntN(100_000), int(p.left))
	p.left -= int64(n)
	return p.rnd.Read(b[:n])
}

// exchange sends a pattern while it reads one back, and checks that it is the same. It closes c.
func exchange(c halfCloser, seed uint64, size int64) error {
	defer c.Close()
	sent, got := sha256.New(), sha256.New()
	done := make(chan error, 1)
	go func() {
		_, err := io.CopyBuffer(struct{ io.Writer }{c}, struct{ io.Reader }{io.TeeReader(newPattern(seed, size), sent)}, make([]byte, 100_000))
		done <- errors.Join(err, c.CloseWrite())
	}()
	n, err := io.CopyBuffer(struct{ io.Writer }{got}, struct{ io.Reader }{&shortReader{c, rand.New(rand.NewPCG(seed, 2))}}, make([]byte, 300_000))
	if err = errors.Join(err, <-done); err != nil {
		return fmt.Errorf("exchange: %w", err)
	}
	if n != size || !bytes.Equal(sent.Sum(nil), got.Sum(nil)) {
		return fmt.Errorf("exchange: got %d bytes back of %d, or not the same", n, size)
	}
	return nil
}

// shortReader reads random amounts.
type shortReader struct {
	r   io.Reader
	rnd *rand.Rand
}

func (s *shortReader) Read(b []byte) (int, error) { return s.r.Read(b[:1+s.rnd.IntN(len(b))]) }

// mirror sends back what comes and then ends its stream.
func mirror(c *net.TCPConn) error {
	_, err := io.CopyBuffer(struct{ io.Writer }{c}, struct{ io.Reader }{c}, make([]byte, 200_000))
	return errors.Join(err, c.CloseWrite())
}

func TestTransfer(t *testing.T) {
	for _, tt := range []struct {
		name string
		cfg  Config
		to   string
	}{
		{"1280", Config{MTU: 1280}, "203.0.113.7:80"},
		{"1500", Config{MTU: 1500}, "[2001:db8::7]:80"},
		{"9000", Config{MTU: 9000}, "203.0.113.7:80"},
		{"65520", Config{MTU: 65520}, "[2001:db8::7]:80"},
		{"offload 1280", Config{MTU: 1280, Link: Link{VnetHdr: vnetHdrLen, TSO: true}}, "[2001:db8::7]:80"},
		{"offload 1500", Config{MTU: 1500, Link: Link{VnetHdr: vnetHdrLen, TSO: true}}, "203.0.113.7:80"},
		{"offload 65520", Config{MTU: 65520, Link: Link{VnetHdr: vnetHdrLen, TSO: true}}, "203.0.113.7:80"},
		{"vnet header without offload", Config{Link: Link{VnetHdr: vnetHdrLen}}, "203.0.113.7:80"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := hostListener(t, func(c *net.TCPConn) {
				if err := mirror(c); err != nil {
					t.Error(err)
				}
			})
			stats := make(chan relay.Stats, 1)
			p := newPeer(t, tt.cfg, toHost(l, stats))
			if err := exchange(p.mustDial(t, tt.to), 1, transferSize()); err != nil {
				t.Error(err)
			}
			if st := <-stats; st.Sent != transferSize() || st.Received != transferSize() || st.Cause != relay.Fin {
				t.Errorf("stats %+v", st)
			}
		})
	}
}

// Without a kernel socket on the other side the bytes take the general paths.
func TestTransferWithoutHostSocket(t *testing.T) {
	p := newPeer(t, Config{}, handlerOf(func(ctx context.Context, a flow.Arrival) {
		c, err := a.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		near, far := net.Pipe()
		go func() {
			io.Copy(far, far)
			far.Close()
		}()
		relay.Pipe(ctx, c, near, relay.Options{})
	}))
	c := p.mustDial(t, "203.0.113.7:80")
	const size = 1 << 20
	go io.Copy(struct{ io.Writer }{c}, newPattern(1, size))
	got, err := io.ReadAll(io.LimitReader(c, size))
	want, _ := io.ReadAll(newPattern(1, size))
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
}

// refuseGSO makes the endpoint's device refuse large segments from the nth on, as some kernels do.
func refuseGSO(e *endpoint, nth int64) (refused *atomic.Int64) {
	refused = new(atomic.Int64)
	var large atomic.Int64
	e.writev = func(fd int, iovs []unix.Iovec) (int, error) {
		hdr := parseVnetHdr(iovecBytes(iovs[0]))
		if hdr.gsoType != vnetGSONone && large.Add(1) >= nth {
			refused.Add(1)
			return 0, unix.EINVAL
		}
		return writevRaw(fd, iovs)
	}
	return refused
}

// A kernel that refuses a large segment gets it in pieces, from then on every connection's.
func TestTransferGSORefused(t *testing.T) {
	for _, to := range []string{"203.0.113.7:80", "[2001:db8::7]:80"} {
		l := hostListener(t, func(c *net.TCPConn) { mirror(c) })
		up := make(chan struct{})
		h := toHost(l, nil)
		p := newPeer(t, Config{Link: Link{VnetHdr: vnetHdrLen, TSO: true}}, handlerOf(func(ctx context.Context, a flow.Arrival) {
			<-up
			h.Handle(ctx, a)
		}))
		refused := refuseGSO(p.link, 3)
		close(up)
		if err := exchange(p.mustDial(t, to), 1, transferSize()); err != nil {
			t.Error(err)
		}
		if refused.Load() == 0 || p.counters.get(countGSOOff) != 1 || p.counters.get(countSegmented) < 2 {
			t.Errorf("%d refused, counters %v", refused.Load(), p.Counters())
		}
		if err := exchange(p.mustDial(t, to), 2, transferSize()); err != nil {
			t.Error(err)
		}
	}
}

// A server that does not read stops the client, within the bounds of the buffers in between; and what was stopped
// arrives whole once it reads.
func TestTransferBackPressure(t *testing.T) {
	const bufferMax, size = 1 << 20, 64 << 20
	read := make(chan struct{})
	sum := make(chan int64, 1)
	l := hostListener(t, func(c *net.TCPConn) {
		c.SetReadBuffer(64 << 10)
		<-read
		n, _ := io.Copy(io.Discard, c)
		sum <- n
	})
	p := newPeer(t, Config{Limits: Limits{BufferMax: bufferMax}}, toHost(l, nil))
	c := p.mustDial(t, "203.0.113.7:80")
	var sent atomic.Int64
	go func() {
		b := make([]byte, 64<<10)
		for sent.Load() < size {
			n, err := c.Write(b)
			sent.Add(int64(n))
			if err != nil {
				return
			}
		}
		c.CloseWrite()
	}()
	var before int64 = -1
	eventually(t, "the client is stopped", func() bool {
		stopped := sent.Load() == before && before > 0
		before = sent.Load()
		return stopped && p.inside.Stats().TCP.SegmentsSent.Value() > 0
	})
	// The client's own send buffer, ours, and the host's two sockets.
	if got := sent.Load(); got > 32<<20 {
		t.Errorf("%d bytes left the client while the server reads nothing", got)
	}
	close(read)
	if got := <-sum; got != size {
		t.Errorf("server got %d bytes of %d", got, size)
	}
}
