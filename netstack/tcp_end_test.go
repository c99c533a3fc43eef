package netstack

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"

	"github.com/weir-dev/weir/internal/relay"
)

func TestTCPHalfClose(t *testing.T) {
	const size = 1 << 20
	t.Run("client first", func(t *testing.T) {
		l := hostListener(t, func(c *net.TCPConn) {
			got, _ := io.ReadAll(c)
			c.Write(bytes.Repeat([]byte{byte(len(got))}, size))
		})
		stats := make(chan relay.Stats, 1)
		p := newPeer(t, Config{}, toHost(l, stats))
		c := p.mustDial(t, "203.0.113.7:80")
		c.Write([]byte("hello"))
		c.CloseWrite()
		got, err := io.ReadAll(c)
		if err != nil || len(got) != size || got[size-1] != 5 {
			t.Errorf("read %d bytes, %v", len(got), err)
		}
		c.Close()
		if st := <-stats; st.Cause != relay.Fin || st.Sent != 5 || st.Received != size {
			t.Errorf("stats %+v", st)
		}
	})
	t.Run("server first", func(t *testing.T) {
		got := make(chan int, 1)
		l := hostListener(t, func(c *net.TCPConn) {
			c.Write([]byte("hello"))
			c.CloseWrite()
			b, _ := io.ReadAll(c)
			got <- len(b)
		})
		stats := make(chan relay.Stats, 1)
		p := newPeer(t, Config{}, toHost(l, stats))
		c := p.mustDial(t, "203.0.113.7:80")
		if b, err := io.ReadAll(c); err != nil || string(b) != "hello" {
			t.Errorf("read %q, %v", b, err)
		}
		c.Write(make([]byte, size))
		c.CloseWrite()
		if n := <-got; n != size {
			t.Errorf("server got %d bytes", n)
		}
		c.Close()
		if st := <-stats; st.Cause != relay.Fin || st.Sent != size || st.Received != 5 {
			t.Errorf("stats %+v", st)
		}
	})
}

func TestTCPResetIsCarried(t *testing.T) {
	t.Run("from the server", func(t *testing.T) {
		l := hostListener(t, func(c *net.TCPConn) {
			io.ReadFull(c, make([]byte, 5))
			c.SetLinger(0)
		})
		stats := make(chan relay.Stats, 1)
		p := newPeer(t, Config{}, toHost(l, stats))
		c := p.mustDial(t, "203.0.113.7:80")
		c.Write([]byte("hello"))
		_, err := c.Read(make([]byte, 1))
		wantError(t, "read", err, "connection reset")
		if st := <-stats; st.Cause != relay.Rst {
			t.Errorf("stats %+v", st)
		}
	})
	for _, afterFIN := range []bool{false, true} {
		t.Run(fmt.Sprintf("from the client, after its end of stream: %v", afterFIN), func(t *testing.T) {
			ready, reset := make(chan struct{}), make(chan struct{})
			l := hostListener(t, func(c *net.TCPConn) {
				io.ReadFull(c, make([]byte, 5))
				if afterFIN {
					c.Read(make([]byte, 1))
				}
				close(ready)
				waitReset(t, c)
				close(reset)
			})
			stats := make(chan relay.Stats, 1)
			p := newPeer(t, Config{}, toHost(l, stats))
			ep := p.mustDialEndpoint(t, "203.0.113.7:80")
			ep.Write(bytes.NewReader([]byte("hello")), tcpip.WriteOptions{})
			if afterFIN {
				ep.Shutdown(tcpip.ShutdownWrite)
			}
			<-ready
			ep.Abort()
			<-reset
			if st := <-stats; st.Cause != relay.Rst {
				t.Errorf("stats %+v", st)
			}
		})
	}
}

// waitReset waits, without reading or writing, until the peer has reset c.
func waitReset(t *testing.T, c *net.TCPConn) {
	raw, err := c.SyscallConn()
	if err != nil {
		t.Error(err)
		return
	}
	const closed = 7 // TCP_CLOSE
	closedNow := func() bool {
		var state uint8
		raw.Control(func(fd uintptr) {
			if info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
				state = info.State
			}
		})
		return state == closed
	}
	for end := time.Now().Add(patience); !closedNow(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Error("the reset never arrived")
			return
		}
	}
}

// The same four-tuple again at once, whichever side keeps the TIME_WAIT.
func TestTCPPortReuse(t *testing.T) {
	for _, tt := range []struct {
		name  string
		serve func(c *net.TCPConn)
	}{
		{"client closes first", echo},
		{"server closes first", func(c *net.TCPConn) { io.CopyN(c, c, 5) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := hostListener(t, tt.serve)
			p := newPeer(t, Config{}, toHost(l, nil))
			local := netip.AddrPortFrom(guest4, 4321)
			for range 3 {
				c, err := p.dialFrom(local, "203.0.113.7:80")
				if err != nil {
					t.Fatal(err)
				}
				roundTrip(t, c, "hello")
				c.Close()
				eventually(t, "the client's end is gone", func() bool { return p.noEndpoints() })
			}
		})
	}
}

// A read blocked on a host that says nothing ends when the client resets, and no descriptor stays.
func TestTCPNoDescriptorLeaks(t *testing.T) {
	l := hostListener(t, func(c *net.TCPConn) { io.Copy(io.Discard, c) })
	stats := make(chan relay.Stats, 16)
	p := newPeer(t, Config{}, toHost(l, stats))
	before := countFDs(t)
	var wg sync.WaitGroup
	for range 16 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			ep := p.mustDialEndpoint(t, "203.0.113.7:80")
			eventually(t, "the flow is accepted", func() bool { return p.counters.get(countTCPAccepted) == 16 })
			ep.Abort()
			<-stats
		}()
	}
	wg.Wait()
	eventually(t, "descriptors are back", func() bool { return countFDs(t) <= before })
}

func countFDs(t *testing.T) int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
