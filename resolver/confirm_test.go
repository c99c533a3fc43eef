package resolver

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/miekg/dns"
)

func TestConfirm(t *testing.T) {
	for _, c := range []struct {
		name, host, addr string
		want             bool
		asks             []string
	}{
		{"among the answers", "api.test", "192.0.2.1", true, []string{"api.test. A"}},
		{"the family decides the question", "api.test", "2001:db8::1", true, []string{"api.test. AAAA"}},
		{"IPv4 in IPv6 is IPv4", "api.test", "::ffff:192.0.2.1", true, []string{"api.test. A"}},
		{"through a chain", "www.example", "192.0.2.2", true, []string{"www.example. A"}},
		{"not among the answers", "api.test", "203.0.113.6", false, []string{"api.test. A"}},
		{"beside the chain", "beside.example", "203.0.113.6", false, []string{"beside.example. A"}},
		{"does not exist", "none.example", "192.0.2.1", false, []string{"none.example. A"}},
		{"a blocked name is not asked", "blocked.test", "192.0.2.10", false, nil},
		{"a denied chain member", "cloaked.example", "192.0.2.3", false, []string{"cloaked.example. A"}},
		{"rebinding", "rebind.example", "10.0.0.1", false, []string{"rebind.example. A"}},
		{"the rest of a mixed answer", "mixed.example", "192.0.2.4", true, []string{"mixed.example. A"}},
		{"localhost vouches for nothing", "localhost", "127.0.0.1", false, nil},
		{"no name", "a b.example", "192.0.2.1", false, nil},
		{"an address is no name", "192.0.2.1", "192.0.2.1", false, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			up := &spy{Upstream: world}
			s, rec := enforcing(up)
			a := netip.MustParseAddr(c.addr)
			if got := s.Confirm(t.Context(), "direct", c.host, a); got != c.want {
				t.Errorf("Confirm = %v", got)
			}
			if got := up.asked(); !slices.Equal(got, c.asks) {
				t.Errorf("asked %v", got)
			}
			if got := askedFor(s.Memory, a); c.want != slices.Contains(got, c.host) {
				t.Errorf("evidence %v", got)
			}
			for _, q := range rec.list() {
				if !q.Confirm {
					t.Errorf("recorded as the sandbox's own: %+v", q)
				}
			}
		})
	}
}

// TestConfirmIsSharedAndBounded: flows that wait for the same name ask once, and many names do not pile up.
func TestConfirmIsSharedAndBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		up := &spy{Upstream: upstreamFunc(func(ctx context.Context, q *dns.Msg) (*dns.Msg, error) {
			<-release
			return world.Exchange(ctx, q)
		})}
		s, _ := enforcing(up)
		var flows sync.WaitGroup
		for range 10 {
			flows.Go(func() {
				if !s.Confirm(t.Context(), "direct", "api.test", netip.MustParseAddr("192.0.2.1")) {
					t.Error("not confirmed")
				}
			})
		}
		synctest.Wait()
		if n := len(up.asked()); n != 1 {
			t.Errorf("asked %d times", n)
		}
		for i := range MaxConfirms - 1 {
			flows.Go(func() { s.Confirm(t.Context(), "direct", "n"+itoa(i)+".example", netip.MustParseAddr("192.0.2.1")) })
		}
		synctest.Wait()
		if s.Confirm(t.Context(), "direct", "more.example", netip.MustParseAddr("192.0.2.1")) || s.Counters()["confirm-limited"] != 1 {
			t.Errorf("beyond the bound: %v", s.Counters())
		}
		ctx, cancel := context.WithCancel(t.Context())
		flows.Go(func() {
			if s.Confirm(ctx, "direct", "api.test", netip.MustParseAddr("192.0.2.1")) {
				t.Error("confirmed for a flow that is gone")
			}
		})
		synctest.Wait()
		cancel()
		synctest.Wait()
		close(release)
		flows.Wait()
	})
}

// TestConfirmOutlivesItsFirstFlow: the flow that asked goes away, the one that waits along still gets the answer.
func TestConfirmOutlivesItsFirstFlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		s, _ := enforcing(upstreamFunc(func(ctx context.Context, q *dns.Msg) (*dns.Msg, error) {
			<-release
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			return world.Exchange(ctx, q)
		}))
		var flows sync.WaitGroup
		ctx, cancel := context.WithCancel(t.Context())
		flows.Go(func() { s.Confirm(ctx, "direct", "api.test", netip.MustParseAddr("192.0.2.1")) })
		synctest.Wait()
		flows.Go(func() {
			if !s.Confirm(t.Context(), "direct", "api.test", netip.MustParseAddr("192.0.2.1")) {
				t.Error("not confirmed")
			}
		})
		synctest.Wait()
		cancel()
		synctest.Wait()
		close(release)
		flows.Wait()
	})
}
