package netstack

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/weir-dev/weir/flow"
)

// hostileRow is a frame, or a few, that no kernel inside would send for an ordinary program, and the right behaviour.
type hostileRow struct {
	name   string
	frames [][]byte
	hdr    vnetHdr

	counter string   // the counter that moves, "" for none
	flows   []string // what reaches the policy, as "network destination"
	answers []string // what the door sends back, see describeTransport

	repeats bool // what is refused comes in many parts, and each may be answered

	link linkKind // which links the row is for
}

// linkKind says which links a row is for: without a vnet header checksums count, with one they are the kernel's business.
type linkKind uint8

const (
	anyLink linkKind = iota
	plainLink
	vnetLink
)

// one is a row's only frame.
func one(frame []byte) [][]byte { return [][]byte{frame} }

// hostileRows are all rows.
func hostileRows() (rows []hostileRow) {
	for group, list := range map[string][]hostileRow{
		"link": linkRows(), "arp": arpRows(), "ndp": ndpRows(), "vnet": vnetRows(), "ipv4": ipv4Rows(), "ipv6": ipv6Rows(),
		"frag4": fragment4Rows(), "frag6": fragment6Rows(), "icmp": icmpRows(), "proto": protocolRows(), "udp": udpRows(), "tcp": tcpRows(),
	} {
		for _, r := range list {
			r.name = group + "/" + r.name
			rows = append(rows, r)
		}
	}
	slices.SortFunc(rows, func(a, b hostileRow) int { return strings.Compare(a.name, b.name) })
	return rows
}

// arrivals is a handler that remembers what reached it and refuses it.
type arrivals struct {
	mu   sync.Mutex
	seen []string
}

func (a *arrivals) Handle(_ context.Context, f flow.Arrival) {
	a.mu.Lock()
	a.seen = append(a.seen, f.Network+" "+f.Dst.String())
	if src := f.Src.Addr(); src != guest4 && src != guest6 {
		a.seen = append(a.seen, fmt.Sprintf("from %s", src))
	}
	a.mu.Unlock()
	f.Reject(flow.Denied)
}

func (a *arrivals) list() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	slices.Sort(a.seen)
	return slices.Clone(a.seen)
}

// Every hostile frame has one right behaviour and a counter that tells of it, and none of them ends the door.
func TestHostileFrames(t *testing.T) {
	for _, kind := range []struct {
		name string
		kind linkKind
		vnet int
	}{{"plain", plainLink, 0}, {"vnet", vnetLink, vnetHdrLen}} {
		for _, r := range hostileRows() {
			if r.link != anyLink && r.link != kind.kind {
				continue
			}
			t.Run(kind.name+"/"+r.name, func(t *testing.T) { r.run(t, Link{VnetHdr: kind.vnet}) })
		}
	}
}

func (r hostileRow) run(t *testing.T, link Link) {
	seen := &arrivals{}
	w := newWire(t, Config{Link: link}, seen)
	before := w.config()
	for _, f := range r.frames {
		w.send(r.hdr, f)
	}
	w.sync()
	if len(r.flows)+len(r.answers) > 0 {
		eventually(t, fmt.Sprintf("flows %q answers %q, last %q %q", r.flows, r.answers, seen.list(), w.seen()), func() bool {
			return len(seen.list()) >= len(r.flows) && len(w.seen()) >= len(r.answers)
		})
	}
	if now := w.config(); now != before {
		t.Errorf("routes and addresses were %s, are %s", before, now)
	}
	w.Stack.Close() // nothing is under way after it
	if got := seen.list(); !slices.Equal(got, r.flows) {
		t.Errorf("flows %q, want %q", got, r.flows)
	}
	got := w.seen()
	slices.Sort(got)
	if r.repeats {
		got = slices.Compact(got)
	}
	if !slices.Equal(got, r.answers) {
		t.Errorf("answers %q, want %q", got, r.answers)
	}
	counters := w.Counters()
	if r.counter != "" && counters[r.counter] == 0 {
		t.Errorf("%s was not counted: %v", r.counter, counters)
	}
	if r.counter == "" && !r.repeats {
		for name := range counters {
			if strings.HasPrefix(name, "drop") {
				t.Errorf("%s was counted", name)
			}
		}
	}
}

// config is what no packet may change: routes, addresses, neighbours.
func (w *wire) config() string {
	nic := w.stack.NICInfo()[nicID]
	near, _ := w.stack.Neighbors(nicID, header.IPv4ProtocolNumber)
	near6, _ := w.stack.Neighbors(nicID, header.IPv6ProtocolNumber)
	return fmt.Sprint(w.stack.GetRouteTable(), nic.ProtocolAddresses, nic.MTU, near, near6)
}

// tcpFrame is a TCP segment of the guest to 203.0.113.7:80 with flags, options and payload.
func tcpFrame(flags header.TCPFlags, options, payload []byte) []byte {
	return l2(header.IPv4ProtocolNumber, packet4(guest4.String(), "203.0.113.7", header.TCPProtocolNumber, nil, segmentTo("203.0.113.7", flags, options, payload)))
}

// segmentTo is a TCP segment of the guest from port 4000 to port 80 of dst.
func segmentTo(dst string, flags header.TCPFlags, options, payload []byte) []byte {
	b := make([]byte, header.TCPMinimumSize, header.TCPMinimumSize+len(options)+len(payload))
	header.TCP(b).Encode(&header.TCPFields{
		SrcPort: 4000, DstPort: 80, SeqNum: 1000, AckNum: 77, DataOffset: uint8(header.TCPMinimumSize + len(options)), Flags: flags, WindowSize: 65535,
	})
	b = append(append(b, options...), payload...)
	src := guest4.String()
	if strings.Contains(dst, ":") {
		src = guest6.String()
	}
	return withSum(src, dst, header.TCPProtocolNumber, b, header.TCPChecksumOffset)
}
