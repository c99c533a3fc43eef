package netstack

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// Link is an opened network device: one read is one Ethernet frame, one write sends one.
type Link struct {
	// File is the descriptor, non-blocking: a TAP opened with IFF_TAP|IFF_NO_PI, an AF_PACKET SOCK_RAW socket bound to
	// one end of a veth pair, or in tests one end of an AF_UNIX SOCK_SEQPACKET pair.
	File *os.File

	// Kind is "tap", "veth", or "pair" in tests. It is a label: every kind is read and written alike.
	Kind string

	// VnetHdr is the size in bytes of the virtio-net header before each frame: 10, or 0 for none.
	VnetHdr int

	// TSO says that the device takes and gives TCP segments larger than the MTU with partial checksums (TUNSETOFFLOAD
	// with TUN_F_CSUM, TUN_F_TSO4 and TUN_F_TSO6). USO says the same of UDP (TUN_F_USO4, TUN_F_USO6). Both need
	// VnetHdr.
	TSO, USO bool
}

const (
	// gsoMaxSize is the largest IP packet handed to the device, headers included.
	gsoMaxSize = 65535

	// vnetHdrLen is the size of struct virtio_net_hdr without the num_buffers field.
	vnetHdrLen = 10
)

// endpoint is the stack's end of the device: a gVisor link endpoint with the segmentation work left to the kernel.
type endpoint struct {
	file     *os.File
	raw      syscall.RawConn
	fd       int
	vnet     bool
	filter   filter
	parts    *fragments
	counters *counters
	acks     delayedACKs
	guest    tcpip.LinkAddress
	gateway  tcpip.LinkAddress
	mtu      atomic.Uint32
	writev   writevFunc

	// gso says that the kernel still takes segments larger than the MTU. It goes from true to false at most once.
	gso atomic.Bool

	// uso says the same of UDP super-datagrams.
	uso atomic.Bool

	dispatcher stack.NetworkDispatcher

	// burst takes datagrams past the dispatcher; nil takes none. It is set before readLoop.
	burst *udpBurst

	// mu keeps the descriptor open while it is written to.
	mu     sync.RWMutex
	closed bool
}

var (
	_ stack.LinkEndpoint = (*endpoint)(nil)
	_ stack.GSOEndpoint  = (*endpoint)(nil)
)

// newEndpoint takes over cfg.Link.
func newEndpoint(cfg Config, c *counters) (*endpoint, error) {
	l := cfg.Link
	if l.VnetHdr != 0 && l.VnetHdr != vnetHdrLen {
		return nil, fmt.Errorf("vnet header of %d bytes, want 0 or %d", l.VnetHdr, vnetHdrLen)
	}
	if l.VnetHdr == 0 && (l.TSO || l.USO) {
		return nil, errors.New("offload without vnet header")
	}
	raw, err := l.File.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("device descriptor: %w", err)
	}
	e := &endpoint{
		file:     l.File,
		raw:      raw,
		vnet:     l.VnetHdr != 0,
		filter:   newFilter(cfg),
		parts:    newFragments(),
		counters: c,
		guest:    tcpip.LinkAddress(cfg.GuestMAC),
		gateway:  tcpip.LinkAddress(cfg.GatewayMAC),
		writev:   writevRaw,
	}
	e.mtu.Store(cfg.MTU)
	e.acks.write = func(frame []byte) { e.countTx(e.writeFrame([]unix.Iovec{iovec(frame)})) }
	e.acks.saved = func() { c.add(countACKSaved, 1) }
	e.gso.Store(l.TSO)
	e.uso.Store(l.USO)
	if err := raw.Control(func(fd uintptr) { e.fd = int(fd) }); err != nil {
		return nil, fmt.Errorf("device descriptor: %w", err)
	}
	if err := syscall.SetNonblock(e.fd, true); err != nil {
		return nil, fmt.Errorf("device descriptor: %w", err)
	}
	return e, nil
}

// shut closes the device once no write is under way.
func (e *endpoint) shut() {
	e.acks.stop()
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.closed {
		e.closed = true
		e.file.Close()
	}
}

// MTU implements stack.LinkEndpoint.
func (e *endpoint) MTU() uint32 { return e.mtu.Load() }

// SetMTU implements stack.LinkEndpoint.
func (e *endpoint) SetMTU(mtu uint32) { e.mtu.Store(mtu) }

// MaxHeaderLength implements stack.LinkEndpoint.
func (e *endpoint) MaxHeaderLength() uint16 { return header.EthernetMinimumSize }

// LinkAddress implements stack.LinkEndpoint.
func (e *endpoint) LinkAddress() tcpip.LinkAddress { return e.gateway }

// SetLinkAddress implements stack.LinkEndpoint. The address is fixed.
func (e *endpoint) SetLinkAddress(tcpip.LinkAddress) {}

// Capabilities implements stack.LinkEndpoint. Received checksums are the sandbox's own kernel's business: it leaves them
// unfinished on purpose. Transmit offload is not announced, because gVisor would then leave UDP checksums out; TCP's are
// offloaded by way of GSO.
func (e *endpoint) Capabilities() stack.LinkEndpointCapabilities {
	if e.vnet {
		return stack.CapabilityRXChecksumOffload
	}
	return 0
}

// Attach implements stack.LinkEndpoint. It is called once, before readLoop.
func (e *endpoint) Attach(d stack.NetworkDispatcher) {
	if d != nil {
		e.dispatcher = d
	}
}

// IsAttached implements stack.LinkEndpoint.
func (e *endpoint) IsAttached() bool { return e.dispatcher != nil }

// Wait implements stack.LinkEndpoint. The read loop belongs to Serve.
func (e *endpoint) Wait() {}

// ARPHardwareType implements stack.LinkEndpoint.
func (e *endpoint) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareEther }

// AddHeader implements stack.LinkEndpoint: there is one neighbour, so one header.
func (e *endpoint) AddHeader(pkt *stack.PacketBuffer) {
	header.Ethernet(pkt.LinkHeader().Push(header.EthernetMinimumSize)).Encode(&header.EthernetFields{
		SrcAddr: e.gateway,
		DstAddr: e.guest,
		Type:    pkt.NetworkProtocolNumber,
	})
}

// ParseHeader implements stack.LinkEndpoint.
func (e *endpoint) ParseHeader(pkt *stack.PacketBuffer) bool {
	hdr, ok := pkt.LinkHeader().Consume(header.EthernetMinimumSize)
	if ok {
		pkt.NetworkProtocolNumber = header.Ethernet(hdr).Type()
	}
	return ok
}

// Close implements stack.LinkEndpoint. The device is closed by shut.
func (e *endpoint) Close() {}

// SetOnCloseAction implements stack.LinkEndpoint.
func (e *endpoint) SetOnCloseAction(func()) {}

// GSOMaxSize implements stack.GSOEndpoint.
func (e *endpoint) GSOMaxSize() uint32 { return gsoMaxSize }

// SupportedGSO implements stack.GSOEndpoint.
func (e *endpoint) SupportedGSO() stack.SupportedGSO {
	if e.gso.Load() {
		return stack.HostGSOSupported
	}
	return stack.GSONotSupported
}
