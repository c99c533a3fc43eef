package netstack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"

	"github.com/weir-dev/weir/flow"
)

// handlerFunc makes a flow.Handler of a function.
type handlerFunc func(ctx context.Context, a flow.Arrival)

func (h handlerFunc) Handle(ctx context.Context, a flow.Arrival) { h(ctx, a) }

// tableTest is a datagramTable without a stack: what would leave it is kept.
type tableTest struct {
	*datagramTable
	wg sync.WaitGroup

	mu       sync.Mutex
	arrivals []flow.Arrival
	sent     []string
	refused  []string // "reason quote"
}

// newTableTest returns a table in a bubble that ends with it. handle may be nil: then flows wait for ever.
func newTableTest(t *testing.T, change func(*datagramConfig), handle func(flow.Arrival)) *tableTest {
	tt := &tableTest{}
	ctx, cancel := context.WithCancel(context.Background())
	l := Limits{}.withDefaults()
	cfg := datagramConfig{
		network:    "udp",
		ctx:        ctx,
		maxFlows:   l.UDPFlows,
		maxPending: l.HalfOpenUDP,
		idle:       udpIdle(l),
		send: func(key datagramKey, datagrams [][]byte) (int, error) {
			tt.mu.Lock()
			defer tt.mu.Unlock()
			for _, p := range datagrams {
				tt.sent = append(tt.sent, fmt.Sprintf("%s>%s %s", key.dst, key.src, p))
			}
			return len(datagrams), nil
		},
		unreachable: func(reason flow.Reason, quote []byte) {
			tt.mu.Lock()
			defer tt.mu.Unlock()
			tt.refused = append(tt.refused, fmt.Sprintf("%d %s", reason, quote))
		},
		spawn:    func(f func()) bool { tt.wg.Go(f); return true },
		counters: newCounters(),
		names:    datagramCounters{"flows", "pending", "queue", "evicted", "refused"},
		handler: handlerFunc(func(ctx context.Context, a flow.Arrival) {
			tt.mu.Lock()
			tt.arrivals = append(tt.arrivals, a)
			tt.mu.Unlock()
			if handle != nil {
				handle(a)
				return
			}
			<-ctx.Done()
		}),
	}
	if change != nil {
		change(&cfg)
	}
	tt.datagramTable = newDatagramTable(cfg)
	t.Cleanup(func() {
		cancel()
		tt.wg.Wait()
	})
	return tt
}

// testKey is the flow from the sandbox's port sport to a peer's port.
func testKey(sport, dport int) datagramKey {
	return datagramKey{
		src: netip.AddrPortFrom(netip.MustParseAddr("10.77.0.2"), uint16(sport)),
		dst: netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), uint16(dport)),
	}
}

// give delivers one datagram; its quote is its payload, too.
func (tt *tableTest) give(key datagramKey, payload string) {
	tt.deliver(key, buffer.NewViewWithData([]byte(payload)), []byte(payload))
}

func (tt *tableTest) arrival(i int) flow.Arrival {
	tt.mu.Lock()
	defer tt.mu.Unlock()
	return tt.arrivals[i]
}

const nothingLeft = "0 flows, 0 pending, 0 refusals, 0 bytes"

// left says what the table holds: flows, those without a verdict, refusals, and bytes.
func (tt *tableTest) left() string {
	t := tt.datagramTable
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.flows) != t.recent.Len() || len(t.refusals.by) != len(t.refusals.order) || t.forgetting != (len(t.refusals.by) > 0) {
		return "an inconsistent table"
	}
	return fmt.Sprintf("%d flows, %d pending, %d refusals, %d bytes", len(t.flows), t.pending, len(t.refusals.by), t.queued.Load())
}

func (tt *tableTest) count(name string) int { return int(tt.cfg.counters.get(name)) }

// accepted delivers a first datagram and accepts its flow.
func (tt *tableTest) accepted(t *testing.T, key datagramKey) net.Conn {
	t.Helper()
	n := len(tt.arrivals)
	tt.give(key, "first")
	synctest.Wait()
	conn, err := tt.arrival(n).Accept()
	if err != nil {
		t.Fatal(err)
	}
	if got := readString(t, conn); got != "first" {
		t.Fatalf("first datagram is %q", got)
	}
	return conn
}

func readString(t *testing.T, conn net.Conn) string {
	t.Helper()
	b := make([]byte, 1<<16)
	n, err := conn.Read(b)
	if err != nil {
		t.Fatalf("read: %v", err)
	}
	return string(b[:n])
}

func TestDatagramBoundaries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tt := newTableTest(t, nil, nil)
		conn := tt.accepted(t, testKey(1000, 9))
		for _, p := range []string{"a", "", "bc", "", string(make([]byte, 65507))} {
			tt.give(testKey(1000, 9), p)
		}
		for i, want := range []int{1, 0, 2, 0, 65507} {
			if got := len(readString(t, conn)); got != want {
				t.Errorf("datagram %d has %d bytes, want %d", i, got, want)
			}
		}
		tt.give(testKey(1000, 9), "cut to the buffer")
		tt.give(testKey(1000, 9), "next")
		b := make([]byte, 3)
		if n, err := conn.Read(b); n != 3 || err != nil || string(b) != "cut" {
			t.Errorf("short read: %d, %v, %q", n, err, b)
		}
		if got := readString(t, conn); got != "next" {
			t.Errorf("after a short read: %q, want the next datagram", got)
		}
		for _, p := range []string{"x", ""} {
			if n, err := conn.Write([]byte(p)); n != len(p) || err != nil {
				t.Errorf("write %q: %d, %v", p, n, err)
			}
		}
		if fmt.Sprint(tt.sent) != "[192.0.2.1:9>10.77.0.2:1000 x 192.0.2.1:9>10.77.0.2:1000 ]" {
			t.Errorf("sent %q", tt.sent)
		}
		if got := tt.left(); len(tt.arrivals) != 1 || got != "1 flows, 0 pending, 0 refusals, 0 bytes" {
			t.Errorf("%d arrivals, %s", len(tt.arrivals), got)
		}
	})
}

func TestDatagramIdle(t *testing.T) {
	for _, c := range []struct {
		name   string
		dport  int
		answer bool
		limit  time.Duration
	}{
		{"unanswered", 9, false, 30 * time.Second},
		{"answered", 9, true, 120 * time.Second},
		{"dns", 53, false, 10 * time.Second},
		{"dns answered", 53, true, 10 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tt := newTableTest(t, nil, nil)
				key := testKey(1000, c.dport)
				conn := tt.accepted(t, key)
				if c.answer {
					conn.Write([]byte("answer"))
				}
				// Activity just before the limit starts it anew.
				time.Sleep(c.limit - time.Second)
				tt.give(key, "again")
				readString(t, conn)
				began := time.Now()
				_, err := conn.Read(make([]byte, 10))
				if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.Is(err, errIdle) {
					t.Errorf("read of an idle flow: %v, want a timeout", err)
				}
				if quiet := time.Since(began); quiet != c.limit {
					t.Errorf("ended after %v, want %v", quiet, c.limit)
				}
				var ne net.Error
				if _, err := conn.Write([]byte("late")); !errors.As(err, &ne) || !ne.Timeout() {
					t.Errorf("write to an ended flow: %v, want a timeout", err)
				}
				// The tuple may be used again, and is a new flow.
				tt.accepted(t, key)
				if len(tt.arrivals) != 2 {
					t.Errorf("%d arrivals, want 2", len(tt.arrivals))
				}
			})
		})
	}
}

func TestDatagramDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tt := newTableTest(t, nil, nil)
		key := testKey(1000, 9)
		conn := tt.accepted(t, key)
		b := make([]byte, 10)
		conn.SetReadDeadline(time.Now().Add(3 * time.Second))
		began := time.Now()
		if _, err := conn.Read(b); !errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, errIdle) {
			t.Errorf("read past its deadline: %v", err)
		}
		if d := time.Since(began); d != 3*time.Second {
			t.Errorf("read waited %v", d)
		}
		tt.give(key, "x")
		if _, err := conn.Read(b); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("the deadline was forgotten: %v", err)
		}
		conn.SetDeadline(time.Time{})
		if got := readString(t, conn); got != "x" {
			t.Errorf("after the deadline: %q", got)
		}

		// A deadline that is moved while a Read waits takes effect; the older timer does not.
		conn.SetReadDeadline(time.Now().Add(time.Second))
		go func() {
			time.Sleep(time.Second / 2)
			conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		}()
		began = time.Now()
		if _, err := conn.Read(b); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(began) != 5500*time.Millisecond {
			t.Errorf("moved deadline: %v after %v", err, time.Since(began))
		}

		conn.SetWriteDeadline(time.Now().Add(-time.Second))
		if _, err := conn.Write(b); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("write past its deadline: %v", err)
		}
		conn.SetWriteDeadline(time.Now().Add(time.Second))
		if _, err := conn.Write(b); err != nil {
			t.Errorf("write before its deadline: %v", err)
		}
	})
}

// A broken device ends the flow. A full one loses datagrams, see TestNoRoom.
func TestDatagramSendErrors(t *testing.T) {
	for _, c := range []struct{ send, want error }{
		{syscall.EMSGSIZE, syscall.EMSGSIZE},
		{syscall.EBADF, syscall.EBADF},
	} {
		t.Run(c.send.Error(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tt := newTableTest(t, func(cfg *datagramConfig) {
					cfg.send = func(datagramKey, [][]byte) (int, error) { return 0, c.send }
				}, nil)
				if _, err := tt.accepted(t, testKey(1, 9)).Write([]byte("x")); !errors.Is(err, c.want) {
					t.Errorf("write: %v, want %v", err, c.want)
				}
			})
		})
	}
}

func TestDatagramClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tt := newTableTest(t, nil, nil)
		key := testKey(1000, 9)
		conn := tt.accepted(t, key)
		go func() {
			time.Sleep(time.Second)
			conn.Close()
		}()
		if _, err := conn.Read(nil); !errors.Is(err, net.ErrClosed) {
			t.Errorf("read while closed: %v", err)
		}
		if _, err := conn.Write(nil); !errors.Is(err, net.ErrClosed) {
			t.Errorf("write after close: %v", err)
		}
		if err := conn.SetDeadline(time.Time{}); !errors.Is(err, net.ErrClosed) {
			t.Errorf("deadline after close: %v", err)
		}
		if err := conn.Close(); err != nil {
			t.Errorf("second close: %v", err)
		}
		if got := tt.left(); got != nothingLeft {
			t.Errorf("left: %s", got)
		}
		if len(tt.refused) != 0 {
			t.Errorf("close told the sandbox: %q", tt.refused)
		}
		again := tt.accepted(t, key)
		tt.close()
		if _, err := again.Read(nil); !errors.Is(err, net.ErrClosed) {
			t.Errorf("read after the table ended: %v", err)
		}
		tt.give(testKey(1001, 9), "late")
		if got := tt.left(); got != nothingLeft {
			t.Errorf("a closed table made a flow: %s", got)
		}
	})
}

func TestDatagramReject(t *testing.T) {
	for _, c := range []struct {
		name   string
		reason flow.Reason
		accept bool
		want   string
	}{
		{"denied", flow.Denied, false, "[0 second]"},
		{"denied after accept", flow.Denied, true, "[0 second]"},
		{"refused by the upstream", flow.Refused, true, "[1 second]"},
		{"no route", flow.NetUnreachable, false, "[3 second]"},
		{"timed out in silence", flow.TimedOut, false, "[]"},
		{"timed out after accept", flow.TimedOut, true, "[4 second]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tt := newTableTest(t, nil, nil)
				tt.give(testKey(1000, 9), "first")
				tt.give(testKey(1000, 9), "second")
				synctest.Wait()
				a := tt.arrival(0)
				var conn net.Conn
				if c.accept {
					conn, _ = a.Accept()
				}
				if err := errors.Join(a.Reject(c.reason), a.Reject(flow.Denied)); err != nil {
					t.Fatal(err)
				}
				if got := fmt.Sprint(tt.refused); got != c.want {
					t.Errorf("the sandbox was told %s, want %s", got, c.want)
				}
				if got := tt.left(); got != "0 flows, 0 pending, 1 refusals, 0 bytes" {
					t.Errorf("left: %s", got)
				}
				if c.accept {
					if _, err := conn.Read(nil); !errors.Is(err, errRejected) {
						t.Errorf("read of a rejected flow: %v", err)
					}
				} else if _, err := a.Accept(); !errors.Is(err, errRejected) {
					t.Errorf("accept of a rejected flow: %v", err)
				}
			})
		})
	}
}

// A handler that returns has ended its flow, whatever it did.
func TestDatagramHandlerReturns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var conn net.Conn
		tt := newTableTest(t, nil, func(a flow.Arrival) {
			if a.Src.Port() == 1 {
				conn, _ = a.Accept()
			}
		})
		tt.give(testKey(1, 9), "x")
		tt.give(testKey(2, 9), "x")
		synctest.Wait()
		if got := tt.left(); got != nothingLeft || len(tt.refused) != 0 {
			t.Errorf("left: %s, told %q", got, tt.refused)
		}
		if _, err := conn.Read(nil); !errors.Is(err, net.ErrClosed) {
			t.Errorf("read: %v", err)
		}
	})
}
