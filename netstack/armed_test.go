package netstack

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"

	"github.com/weir-dev/weir/flow"
	"github.com/weir-dev/weir/flow/event"
	"github.com/weir-dev/weir/flow/policy"
	"github.com/weir-dev/weir/flow/sniff"
	"github.com/weir-dev/weir/internal/testnet"
)

// armed is the real gate with a policy in front of an outside world that writes down who is dialled and what is sent. It
// knows on its own, without asking the policy, what is right.
type armed struct {
	gate *flow.Gate

	mu        sync.Mutex
	wrong     []string
	upstreams []*upstream
	claims    []string // SNI and Host of each flow, as recorded
	ended     sync.WaitGroup
}

// The rules of the gate, what its resolver remembers, and all that may come of it.
const (
	goodName = "good.example"
	goodAddr = "203.0.113.7" // what good.example was resolved to
	openAddr = "198.51.100.7"
	openPort = "198.51.100.7:7"
)

var allowedDials = map[string]bool{
	"tcp 203.0.113.7:443": true, "udp 203.0.113.7:443": true, "tcp 203.0.113.7:80": true, "udp 203.0.113.7:80": true,
	"tcp 198.51.100.7:7": true, "udp 198.51.100.7:7": true, "tcp [2001:db8::7]:7": true, "udp [2001:db8::7]:7": true,
}

// armedPolicy is compiled once: a fuzz target makes many gates.
var armedPolicy = sync.OnceValue(func() *policy.Policy {
	p, err := policy.New(policy.Config{
		Allow:   []string{goodName, openPort, "[2001:db8::7]:7"},
		Gateway: []netip.Addr{gateway4, gateway6},
	})
	if err != nil {
		panic(err)
	}
	return p
})

func newArmed() *armed {
	a := &armed{}
	a.gate = &flow.Gate{
		App: "fuzz", Sandbox: "fuzz", Door: "netstack", Policy: armedPolicy(), Events: a,
		Routes: map[string]flow.Dialer{"direct": a},
		Names: flow.Names{
			Recall: func(_ string, addr netip.Addr) (asked, chain, heard []string) {
				if addr.String() == goodAddr {
					return []string{goodName}, nil, nil
				}
				return nil, nil, nil
			},
			Confirm: func(context.Context, string, string, netip.Addr) bool { return false },
			Hold:    func(netip.Addr) func() { return func() {} },
		},
	}
	return a
}

func (a *armed) fail(format string, args ...any) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.wrong = append(a.wrong, fmt.Sprintf(format, args...))
}

// Handle checks who speaks and lets the gate do its work.
func (a *armed) Handle(ctx context.Context, f flow.Arrival) {
	if src := f.Src.Addr(); src != guest4 && src != guest6 || src.Is4() != f.Dst.Addr().Is4() {
		a.fail("a flow of %s to %s", src, f.Dst)
	}
	a.gate.Handle(ctx, f)
}

// Emit keeps what the gate says of each flow.
func (a *armed) Emit(e *event.Event) {
	if c, ok := e.Details.(*event.Connect); ok {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.claims = append(a.claims, c.SNI+c.HTTPHost)
		if c.Verdict == "allow" && !allowedDials[c.Protocol+" "+c.Dst.String()] {
			a.wrong = append(a.wrong, fmt.Sprintf("%s to %s was allowed", c.Protocol, c.Dst))
		}
	}
}

// DialContext is the only way out.
func (a *armed) DialContext(_ context.Context, network, address string) (net.Conn, error) {
	if !allowedDials[network+" "+address] {
		a.fail("%s %s was dialled", network, address)
		return nil, syscall.ECONNREFUSED
	}
	ours, theirs := testnet.Pair()
	up := &upstream{Conn: theirs, network: network, address: address}
	a.mu.Lock()
	a.upstreams = append(a.upstreams, up)
	a.mu.Unlock()
	a.ended.Add(1)
	go func() {
		defer a.ended.Done()
		up.serve()
	}()
	return ours, nil
}

// upstream is a server that sends back what it gets and remembers the beginning of it.
type upstream struct {
	*testnet.Conn
	network, address string

	mu   sync.Mutex
	sent []byte
}

func (u *upstream) serve() {
	defer u.Close()
	b := make([]byte, 4096)
	for {
		n, err := u.Read(b)
		u.mu.Lock()
		u.sent = append(u.sent, b[:min(n, max(0, 1<<20-len(u.sent)))]...)
		u.mu.Unlock()
		if err != nil {
			return
		}
		if _, err := u.Write(b[:n]); err != nil {
			return
		}
	}
}

func (u *upstream) received() []byte {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.sent
}

// verdict ends the world, once the stack has ended, and returns what was wrong: of the bytes that reached the address of
// an allowed name, none may begin with a claim of another one.
func (a *armed) verdict() []string {
	a.ended.Wait()
	for _, u := range a.upstreams {
		if sent := u.received(); u.network == "tcp" && netip.MustParseAddrPort(u.address).Addr().String() == goodAddr && len(sent) > 0 {
			var s sniff.Stream
			if hint, _ := s.Feed(sent); hint.Host != "" && hint.Host != goodName {
				a.wrong = append(a.wrong, fmt.Sprintf("%s got the claim %q", u.address, hint.Host))
			}
		}
	}
	a.upstreams = nil // a timer of gVisor's fragments holds on to the door, and so to us, for up to a minute
	return a.wrong
}
