package netstack

import (
	"context"
	"fmt"
	"net"
	"sync"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"

	"github.com/weir-dev/weir/flow"
)

const (
	dropHalfOpen     = "drop-tcp-half-open"   // SYN beyond Limits.HalfOpen
	rejectTCPFlows   = "reject-tcp-flows"     // SYN beyond Limits.TCPFlows, answered with a RST
	countTCPGaveUp   = "tcp-client-gave-up"   // the client left before the verdict
	countTCPAccepted = "tcp-accepted"         // handshakes finished
	countTCPRejected = "tcp-rejected"         // refused before the handshake
	countHandshake   = "tcp-handshake-failed" // Accept was called and the client did not answer
)

// tcpDoor turns SYNs into Arrivals.
//
// A SYN that meets no listener comes to handlePacket, on the goroutine that reads the device. It becomes an attempt, and
// gVisor's forwarder calls serve with it on a goroutine of the flow's own. Until the attempt is settled, what the client
// retransmits is ignored; what tells that it has given up cancels the attempt's context.
type tcpDoor struct {
	s         *Stack
	handler   flow.Handler
	forwarder *tcp.Forwarder

	mu      sync.Mutex
	pending map[stack.TransportEndpointID]*attempt
	flows   int // SYNs taken and not yet done with, half-open ones included

	bufferMax int // what a flow's buffers may grow to, see sizeBuffers
}

// attempt is a SYN that waits for its verdict.
type attempt struct {
	ctx    context.Context
	cancel context.CancelFunc
	seq    uint32
	packet []byte // the SYN with its IP header, to be quoted in an ICMP error; nil once settled
}

// installTCP hands TCP flows to h.
func (s *Stack) installTCP(h flow.Handler) {
	d := &tcpDoor{s: s, handler: h, pending: map[stack.TransportEndpointID]*attempt{}, bufferMax: s.cfg.Limits.BufferMax}
	d.forwarder = tcp.NewForwarder(s.stack, 0, s.cfg.Limits.HalfOpen+1, d.serve)
	s.stack.SetTransportProtocolHandler(tcp.ProtocolNumber, d.handlePacket)
}

// handlePacket sees every TCP segment that belongs to no connection. It reports whether the segment was taken; gVisor
// answers the others with a RST.
func (d *tcpDoor) handlePacket(id stack.TransportEndpointID, pkt *stack.PacketBuffer) bool {
	seg := header.TCP(pkt.TransportHeader().Slice())
	if len(seg) < header.TCPMinimumSize {
		return true
	}
	flags := seg.Flags()
	switch {
	case flags.Contains(header.TCPFlagRst):
		d.giveUp(id, seg.SequenceNumber())
		return true
	case !flags.Contains(header.TCPFlagSyn) || flags.Contains(header.TCPFlagAck):
		return false
	}
	if taken, known := d.admit(id, seg, pkt); known {
		return taken
	}
	if !d.forwarder.HandlePacket(id, pkt) {
		d.settle(id)
		d.done()
		return false
	}
	return true
}

// admit registers the attempt of a SYN. known says that nothing is left to do, and taken what handlePacket returns then.
func (d *tcpDoor) admit(id stack.TransportEndpointID, syn header.TCP, pkt *stack.PacketBuffer) (taken, known bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if at, ok := d.pending[id]; ok {
		if at.seq != syn.SequenceNumber() {
			// Another connection on the same ports: the one before is no more. The next retransmission gets through.
			at.cancel()
			d.s.count(countTCPGaveUp)
		}
		return true, true
	}
	switch {
	case len(d.pending) >= d.s.cfg.Limits.HalfOpen:
		d.s.count(dropHalfOpen)
		return true, true
	case d.flows >= d.s.cfg.Limits.TCPFlows:
		d.s.count(rejectTCPFlows)
		return false, true
	case !d.s.enter():
		return true, true
	}
	at := &attempt{seq: syn.SequenceNumber(), packet: synQuote(pkt)}
	at.ctx, at.cancel = context.WithCancel(d.s.ctx)
	d.pending[id] = at
	d.flows++
	d.sizeBuffers()
	return false, false
}

// synQuote copies the headers of a SYN.
func synQuote(pkt *stack.PacketBuffer) []byte {
	ip, tcp := pkt.NetworkHeader().Slice(), pkt.TransportHeader().Slice()
	return append(append(make([]byte, 0, len(ip)+len(tcp)), ip...), tcp...)
}

// giveUp cancels the attempt that a RST with sequence number seq belongs to.
func (d *tcpDoor) giveUp(id stack.TransportEndpointID, seq uint32) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if at, ok := d.pending[id]; ok && (seq == at.seq || seq == at.seq+1) {
		at.cancel()
		d.s.count(countTCPGaveUp)
	}
}

// settle ends the time in which the client's retransmissions are ignored.
func (d *tcpDoor) settle(id stack.TransportEndpointID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.pending, id)
}

// done takes back what admit counted.
func (d *tcpDoor) done() {
	d.mu.Lock()
	d.flows--
	d.sizeBuffers()
	d.mu.Unlock()
	d.s.flows.Done()
}

// serve hands a SYN to the handler. It is called on a goroutine of its own.
func (d *tcpDoor) serve(req *tcp.ForwarderRequest) {
	id := req.ID()
	d.mu.Lock()
	at := d.pending[id]
	d.mu.Unlock()

	r := &tcpRequest{door: d, id: id, req: req, attempt: at}
	a := flow.Arrival{
		Network: "tcp",
		Src:     addrPort(id.RemoteAddress, id.RemotePort),
		Dst:     addrPort(id.LocalAddress, id.LocalPort),
		Accept:  r.accept,
		Reject:  r.reject,
	}
	if h, ok := d.handler.(flow.Opener); ok {
		h.Open(at.ctx, a, r.end)
		return
	}
	defer r.end()
	d.handler.Handle(at.ctx, a)
}

// end is the end of the flow: the handler is done with it.
func (r *tcpRequest) end() {
	r.abandon()
	r.attempt.cancel()
	r.door.done()
}

// tcpRequest is the Arrival's side of an attempt. It is settled exactly once: by accept, by reject, or by abandon.
type tcpRequest struct {
	door    *tcpDoor
	id      stack.TransportEndpointID
	req     *tcp.ForwarderRequest
	attempt *attempt

	mu       sync.Mutex
	settled  bool // accept has begun or the request was completed
	rejected bool
	conn     *tcpConn
}

// accept finishes the handshake and waits for the client's part of it.
func (r *tcpRequest) accept() (net.Conn, error) {
	r.mu.Lock()
	if r.settled {
		r.mu.Unlock()
		return nil, fmt.Errorf("accept: %w", net.ErrClosed)
	}
	r.settled = true
	r.mu.Unlock()

	if err := r.attempt.ctx.Err(); err != nil {
		r.complete(true)
		return nil, fmt.Errorf("accept: %w", err)
	}
	conn := newTCPConn()
	ep, terr := r.req.CreateEndpoint(conn.wq)
	r.complete(terr != nil)
	if terr != nil {
		r.door.s.count(countHandshake)
		return nil, fmt.Errorf("accept: %w", errnoOf(terr))
	}
	conn.start(ep)
	r.door.s.count(countTCPAccepted)

	r.mu.Lock()
	defer r.mu.Unlock()
	if r.rejected {
		conn.Abort()
		return nil, fmt.Errorf("accept: %w", net.ErrClosed)
	}
	r.conn = conn
	return conn, nil
}

// reject refuses the flow in the terms of why, or resets it when it was accepted.
func (r *tcpRequest) reject(why flow.Reason) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.rejected {
		return nil
	}
	r.rejected = true
	if r.settled {
		if r.conn != nil {
			r.conn.Abort()
		}
		return nil
	}
	r.settled = true
	r.door.s.count(countTCPRejected)
	switch why {
	case flow.HostUnreachable:
		r.door.s.sendUnreachable(unreachableHost, r.attempt.packet)
	case flow.NetUnreachable:
		r.door.s.sendUnreachable(unreachableNet, r.attempt.packet)
	}
	r.complete(why == flow.Denied || why == flow.Refused)
	return nil
}

// abandon refuses what the handler neither accepted nor rejected.
func (r *tcpRequest) abandon() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.settled {
		r.settled = true
		r.complete(true)
	}
}

// complete gives the forwarder its request back, with a RST to the client or in silence.
func (r *tcpRequest) complete(rst bool) {
	r.req.Complete(rst)
	r.req = nil
	r.attempt.packet = nil
	r.door.settle(r.id)
}

// abortHandshakes ends the handshakes under way, whose goroutines wait for a client that may never answer.
func (s *Stack) abortHandshakes() {
	for _, e := range s.stack.RegisteredEndpoints() {
		if ep, ok := e.(tcpip.Endpoint); ok && tcp.EndpointState(ep.State()) == tcp.StateSynRecv {
			ep.Abort()
		}
	}
}
