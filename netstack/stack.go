package netstack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv6"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"github.com/weir-dev/weir/flow"
)

const (
	// nicID is the number of the only network interface of a Stack.
	nicID tcpip.NICID = 1

	// DefaultMTU is used when Config.MTU is 0. Offload makes a larger one pay little.
	DefaultMTU = 1500

	// minMTU is the least an IPv6 link may have (RFC 8200 section 5); maxMTU what a TAP accepts.
	minMTU, maxMTU = 1280, 65520
)

// Config describes one sandbox's network. Addresses and MACs are required, except Addr6 and Gateway6.
type Config struct {
	// Link is the device's descriptor. New takes it over: Close closes it.
	Link Link

	// MTU in bytes, 1280 to 65520; 0 means DefaultMTU. It must be the device's.
	MTU uint32

	// Addr4 and Addr6 are the sandbox's own addresses, the only sources its packets may have. An invalid Addr6 turns
	// IPv6 off: such packets are dropped and counted.
	Addr4, Addr6 netip.Addr

	// Gateway4 and Gateway6 are this stack's own addresses, where Listen and ListenPacket listen.
	Gateway4, Gateway6 netip.Addr

	// GuestMAC is the device's address inside, GatewayMAC ours.
	GuestMAC, GatewayMAC net.HardwareAddr

	// Limits bounds what the sandbox may hold; zero fields take their defaults.
	Limits Limits

	// Log is for people; nil is silent.
	Log logrus.FieldLogger
}

// Stack is one sandbox's door. Make it with New, run it with Serve, end it with Close. Its methods are safe for
// concurrent use.
type Stack struct {
	cfg      Config
	stack    *stack.Stack
	link     *endpoint
	counters *counters
	limiter  unreachableLimiter

	// ctx is the parent of every flow's context; Close cancels it.
	ctx    context.Context
	cancel context.CancelFunc

	serveOnce sync.Once
	closeOnce sync.Once

	// mu guards closing, so that no flow is added to flows once Close waits for it.
	mu      sync.Mutex
	closing bool
	flows   sync.WaitGroup
}

// ErrClosed is what Serve returns after Close.
var ErrClosed = errors.New("netstack closed")

// New builds the stack on cfg.Link. No frame is read before Serve. On an error the link is left to the caller.
func New(cfg Config) (*Stack, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("netstack config: %w", err)
	}
	s := &Stack{cfg: cfg, counters: newCounters(), limiter: newUnreachableLimiter()}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.link, err = newEndpoint(cfg, s.counters)
	if err != nil {
		s.cancel()
		return nil, fmt.Errorf("open link: %w", err)
	}
	s.stack = stack.New(stack.Options{
		NetworkProtocols: []stack.NetworkProtocolFactory{ipv4.NewProtocol, ipv6.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{
			tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4, icmp.NewProtocol6,
		},
		HandleLocal: false,
	})
	if err := s.configure(); err != nil {
		s.cancel()
		s.stack.Destroy()
		return nil, fmt.Errorf("configure stack: %w", err)
	}
	return s, nil
}

// Serve reads frames and hands each new flow to h, on a goroutine of its own, until ctx is cancelled, Close is called or
// the device is gone. It always returns a non-nil error: ctx's, ErrClosed, or the device's. When it returns, the context
// of every flow has been cancelled. A Stack serves once.
func (s *Stack) Serve(ctx context.Context, h flow.Handler) error {
	err := errors.New("serve: called twice")
	s.serveOnce.Do(func() { err = s.serve(ctx, h) })
	return err
}

func (s *Stack) serve(ctx context.Context, h flow.Handler) error {
	if !s.enter() {
		return ErrClosed
	}
	defer s.flows.Done()
	defer s.cancel()
	stop := context.AfterFunc(ctx, func() {
		s.cancel()
		s.link.interrupt()
	})
	defer stop()

	s.installTCP(h)
	s.installUDP(h)
	s.installICMP(h)

	err := s.link.readLoop()
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case s.ctx.Err() != nil:
		return ErrClosed
	}
	return fmt.Errorf("read link: %w", err)
}

// spawn runs f on a goroutine that Close waits for. It reports false, and does nothing, once the stack is closing.
func (s *Stack) spawn(f func()) bool {
	if !s.enter() {
		return false
	}
	go func() {
		defer s.flows.Done()
		f()
	}()
	return true
}

// enter adds one to the flows that Close waits for, unless the stack is closing. The caller owes a flows.Done.
func (s *Stack) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return false
	}
	s.flows.Add(1)
	return true
}

// count adds one to the counter called name.
func (s *Stack) count(name string) { s.counters.add(name, 1) }

// Counters returns the value of every counter that has moved, by name.
func (s *Stack) Counters() map[string]uint64 {
	out := s.counters.snapshot()
	s.addStackCounters(out)
	return out
}

// inject sends one whole IP packet, given in parts, into the sandbox, past gVisor. Its checksums are the caller's; the
// parts may be reused when inject returns.
func (s *Stack) inject(proto tcpip.NetworkProtocolNumber, parts ...[]byte) error {
	return s.link.writeIP(proto, parts...)
}

// Close ends every flow, waits for their handlers and for Serve, and closes the device. It may be called more than once,
// but not from a handler.
func (s *Stack) Close() error {
	s.closeOnce.Do(func() {
		s.mu.Lock()
		s.closing = true
		s.mu.Unlock()
		s.cancel()
		s.link.interrupt()
		s.waitFlows()
		s.stack.Destroy()
		s.link.shut()
	})
	return nil
}

// handshakePoll is how often Close looks for handshakes that began while it was waiting.
const handshakePoll = 20 * time.Millisecond

// waitFlows waits for every flow's handler. The handshakes they are in are aborted: the client may be gone for good.
func (s *Stack) waitFlows() {
	done := make(chan struct{})
	go func() {
		s.flows.Wait()
		close(done)
	}()
	for {
		s.abortHandshakes()
		select {
		case <-done:
			return
		case <-time.After(handshakePoll):
		}
	}
}
