package netstack

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
)

// A fuzz input is a few frames, each behind one byte of ways to mend it, its vnet header and its length.
const (
	frameRecord = 1 + vnetHdrLen + 2
	maxFrames   = 48

	mendAddresses = 1 // the guest's source address, the gateway's hardware address, lengths and checksums of IP
	mendMessage   = 2 // the ICMP checksum
)

type fuzzFrame struct {
	mend  byte
	hdr   vnetHdr
	frame []byte
}

// parseFrames takes an input apart. Whatever it is, it is one: what is too long or too short is made to fit.
func parseFrames(in []byte) (frames []fuzzFrame) {
	for len(in) >= frameRecord && len(frames) < maxFrames {
		n := min(int(binary.BigEndian.Uint16(in[1+vnetHdrLen:])), len(in)-frameRecord)
		f := fuzzFrame{in[0], parseVnetHdr(in[1:]), slices.Clone(in[frameRecord:][:n])}
		f.repair()
		frames = append(frames, f)
		in = in[frameRecord+n:]
	}
	return frames
}

// encodeFrames is its inverse, for seeds.
func encodeFrames(mend byte, hdr vnetHdr, frames ...[]byte) (out []byte) {
	for _, f := range frames {
		b := make([]byte, frameRecord)
		b[0] = mend
		hdr.put(b[1:])
		binary.BigEndian.PutUint16(b[1+vnetHdrLen:], uint16(len(f)))
		out = append(append(out, b...), f...)
	}
	return out
}

// repair mends what a mutation breaks first, so that the stack gets to see more than broken headers.
func (f *fuzzFrame) repair() {
	b := f.frame
	if f.mend&mendAddresses == 0 || len(b) < header.EthernetMinimumSize+header.IPv4MinimumSize {
		return
	}
	copy(b, gatewayMAC)
	ip := b[header.EthernetMinimumSize:]
	switch {
	case etherType(b) == header.IPv4ProtocolNumber:
		h := header.IPv4(ip)
		ip[0] = 0x40 | max(5, ip[0]&0xf)
		hlen := min(int(h.HeaderLength()), len(ip)&^3)
		ip[0] = 0x40 | byte(hlen/4)
		h.SetTotalLength(uint16(min(len(ip), 0xffff)))
		copy(ip[12:16], guest4.AsSlice())
		if f.mend&mendMessage != 0 && h.Protocol() == uint8(header.ICMPv4ProtocolNumber) && len(ip) >= hlen+4 {
			m := ip[hlen:]
			m[2], m[3] = 0, 0
			binary.BigEndian.PutUint16(m[2:], ^checksum.Checksum(m, 0))
		}
		h.SetChecksum(0)
		h.SetChecksum(^checksum.Checksum(ip[:hlen], 0))
	case etherType(b) == header.IPv6ProtocolNumber && len(ip) >= header.IPv6MinimumSize:
		h := header.IPv6(ip)
		ip[0] = 0x60 | ip[0]&0xf
		h.SetPayloadLength(uint16(min(len(ip)-header.IPv6MinimumSize, 0xffff)))
		copy(ip[8:24], guest6.AsSlice())
		if f.mend&mendMessage != 0 && h.NextHeader() == uint8(header.ICMPv6ProtocolNumber) && len(ip) >= header.IPv6MinimumSize+4 {
			withSum(guest6.String(), netip.AddrFrom16([16]byte(ip[24:40])).String(), header.ICMPv6ProtocolNumber, ip[header.IPv6MinimumSize:], 2)
		}
	}
}

// frameSeeds are inputs that get far: every row of the hostile table as it is and mended, connections with their data,
// and what captures hold where there are any.
func frameSeeds() (seeds [][]byte) {
	for _, r := range hostileRows() {
		seeds = append(seeds, encodeFrames(0, r.hdr, r.frames[:min(len(r.frames), maxFrames)]...))
	}
	get := []byte("GET / HTTP/1.1\r\nHost: " + goodName + "\r\n\r\n")
	evil := []byte("GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n")
	for _, dst := range []string{openAddr, goodAddr} {
		for _, data := range [][]byte{get, evil} {
			port := uint16(7)
			if dst == goodAddr {
				port = 80
			}
			seeds = append(seeds, encodeFrames(mendAddresses, vnetHdr{}, guestFrame(dst, port, 1000, flagSYN, nil),
				guestFrame(dst, port, 1001, header.TCPFlagAck|header.TCPFlagPsh, data), guestFrame(dst, port, 1001+uint32(len(data)), header.TCPFlagFin|header.TCPFlagAck, nil)))
		}
	}
	return append(seeds,
		encodeFrames(mendAddresses|mendMessage, vnetHdr{}, l2(ethernet4, packet4(guest4.String(), openAddr, 1, []byte{7, 11, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0}, icmp4(8, 0, 1, make([]byte, 56))))),
		encodeFrames(mendAddresses|mendMessage, vnetHdr{}, l2(ethernet4, packet4(guest4.String(), gateway4.String(), 1, []byte{68, 12, 5, 1, 0, 0, 0, 0, 0, 0, 0, 0}, icmp4(8, 0, 1, make([]byte, 56))))),
		encodeFrames(mendAddresses, vnetHdr{flags: 1, gsoType: vnetGSOUDPL4, hdrLen: 42, gsoSize: 100, csumStart: 34, csumOffset: 6},
			l2(ethernet4, packet4(guest4.String(), openAddr, 17, nil, datagram(9, 7, 1000)))),
		encodeFrames(mendAddresses, vnetHdr{flags: 1, gsoType: vnetGSOTCPv4, hdrLen: 54, gsoSize: 200, csumStart: 34, csumOffset: 16},
			guestFrame(openAddr, 7, 1000, flagSYN, make([]byte, 900))))
}

// guestFrame is a segment of the guest from port 4000.
func guestFrame(dst string, dport uint16, seq uint32, flags header.TCPFlags, payload []byte) []byte {
	return segmentFields{src: guest4, dst: netip.MustParseAddr(dst), sport: 4000, dport: dport, seq: seq, flags: flags, payload: payload}.frame()
}

// captureFrames are the first frames of the captures beside the repository, or none.
func captureFrames() (seeds [][]byte) {
	files, _ := filepath.Glob(filepath.Join("..", "..", "shared", "corpus", "*", "*frag*.pcap"))
	more, _ := filepath.Glob(filepath.Join("..", "..", "shared", "corpus", "*", "*ipv6*.pcap"))
	for _, name := range append(files, more...) {
		b, err := os.ReadFile(name)
		if err != nil || len(b) < 24 || binary.LittleEndian.Uint32(b) != 0xa1b2c3d4 || b[20] != 1 {
			continue // another byte order or link
		}
		var frames [][]byte
		for b = b[24:]; len(b) >= 16 && len(frames) < maxFrames/2; {
			n := int(binary.LittleEndian.Uint32(b[8:]))
			if n > len(b)-16 {
				break
			}
			frames = append(frames, b[16:16+n])
			b = b[16+n:]
		}
		seeds = append(seeds, encodeFrames(mendAddresses, vnetHdr{}, frames...))
	}
	return seeds
}

// FuzzFrame sends frames into a door with the policy armed. Nothing that a sandbox can put on its wire makes the door
// panic or stop, opens a flow that the policy does not allow or that comes from another address, is answered to anybody
// else, goes uncounted, changes the configuration, or stays in memory.
func FuzzFrame(f *testing.F) {
	for _, seed := range append(frameSeeds(), captureFrames()...) {
		f.Add(seed)
	}
	idle, n := runtime.NumGoroutine(), 0
	f.Fuzz(func(t *testing.T, in []byte) {
		frames := parseFrames(in)
		world := newArmed()
		w := newWire(t, Config{
			Link: Link{VnetHdr: vnetHdrLen, USO: true}, Limits: Limits{HalfOpen: 64, TCPFlows: 64, UDPFlows: 16, ICMPFlows: 4},
		}, world)
		before := w.config()
		for _, f := range frames {
			w.send(f.hdr, f.frame)
		}
		w.sync()
		if err := w.alive(); err != nil {
			t.Errorf("no connection afterwards: %v\n%v", err, w.Counters())
		}
		if now := w.config(); now != before {
			t.Errorf("the configuration was %s, is %s", before, now)
		}
		if sum, want := w.accounted(), len(frames); sum < want {
			t.Errorf("%d of %d frames are accounted for: %v", sum, want, w.Counters())
		}
		w.close()
		for _, what := range world.verdict() {
			t.Error(what)
		}
		if n++; n%200 == 0 {
			checkIdle(t, idle)
		}
	})
}

// alive opens a connection as any program would and gets back what it sends: a line that claims nothing, so that the
// gate need not wait for more.
func (w *wire) alive() error {
	const line = "alive?\r\n"
	c, err := w.openRaw(64999, openPort, nil)
	if err != nil {
		return err
	}
	c.send(1, header.TCPFlagAck|header.TCPFlagPsh, nil, []byte(line))
	got, err := c.read(len(line), 1+uint32(len(line)))
	if err == nil && string(got) != line {
		err = fmt.Errorf("%q came back", got)
	}
	c.send(1+uint32(len(line)), flagRST|header.TCPFlagAck, nil, nil)
	return err
}

// accounted is how many frames were dropped with a counter, answered as a neighbour, or handed to the stack.
func (w *wire) accounted() int {
	stats := w.stack.Stats()
	n := stats.IP.PacketsReceived.Value() + w.counters.get(countUDPShort)
	for name, v := range w.counters.snapshot() {
		if slices.Contains(filterDrops, name) {
			n += v
		}
	}
	for _, a := range w.seen() {
		if a == "arp" || a == "icmp 136/0" {
			n++
		}
	}
	return int(n)
}

// filterDrops are the counters of frames that never reach the stack.
var filterDrops = []string{
	dropRunt, dropVnetHdr, dropForeignMAC, dropEtherType, dropARP, dropNDP, dropMalformedIP, dropSourceRoute, dropRoutingHeader, dropSpoofed,
	dropMulticast, dropOwnAddress, dropUnspecified, dropNoIPv6, dropLongChain, dropExtension, dropNested, dropICMPError, countICMPType,
	dropUSO, dropFragments, dropIncomplete,
}

// checkIdle fails when goroutines or memory stay behind after the doors that held them.
func checkIdle(t *testing.T, idle int) {
	const slack, maxHeap = 16, 512 << 20 // a closed door with fragments stays for a minute, see armed.verdict
	for end := time.Now().Add(patience); runtime.NumGoroutine() > idle+slack; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			all := make([]byte, 1<<20)
			t.Fatalf("%d goroutines, %d at the start:\n%s", runtime.NumGoroutine(), idle, all[:runtime.Stack(all, true)])
		}
	}
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	if m.HeapAlloc > maxHeap {
		t.Fatalf("%d MiB on the heap", m.HeapAlloc>>20)
	}
}

// Every drop is told in an event, which is by the beginning of its name.
func TestDropsAreNamedSo(t *testing.T) {
	for _, name := range filterDrops {
		if !strings.HasPrefix(name, "drop-") {
			t.Errorf("%s does not begin with drop-", name)
		}
	}
}
