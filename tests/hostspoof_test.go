//go:build linux

package tests

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"
)

// mac is the hardware address of a link in a namespace.
func mac(t *testing.T, ns *os.File, link string) (nic *net.Interface) {
	t.Helper()
	if err := inNamespace(ns, func() (err error) { nic, err = net.InterfaceByName(link); return err }); err != nil {
		t.Fatal(err)
	}
	return nic
}

// send puts a frame on the box's link.
func (b *box) send(frame ...gopacket.SerializableLayer) {
	t := b.host.t
	t.Helper()
	buffer := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buffer, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, frame...); err != nil {
		t.Fatal(err)
	}
	err := inNamespace(b.ns, func() error {
		nic, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Sendto(fd, buffer.Bytes(), 0, &unix.SockaddrLinklayer{Ifindex: nic.Index})
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestHostDoorIdentity: a container with root inside, which sends whatever frames it likes, is nobody but itself.
func TestHostDoorIdentity(t *testing.T) {
	h := newHostNet(t)
	one, two := h.box(2), h.box(3)
	u := h.up("--bridge", "br0", "--mode", "audit")
	own, other, bridge := mac(t, one.ns, "eth0").HardwareAddr, mac(t, two.ns, "eth0").HardwareAddr, mac(t, h.ns, "br0").HardwareAddr
	ip := func(src string) *layers.IPv4 {
		return &layers.IPv4{Version: 4, TTL: 64, SrcIP: net.ParseIP(src), DstIP: net.ParseIP("198.51.100.20"), Protocol: layers.IPProtocolUDP}
	}
	udp := func(over gopacket.NetworkLayer) *layers.UDP {
		d := &layers.UDP{SrcPort: 4000, DstPort: 7}
		d.SetNetworkLayerForChecksum(over)
		return d
	}
	over := func(src string) []gopacket.SerializableLayer {
		l := ip(src)
		return []gopacket.SerializableLayer{l, udp(l), gopacket.Payload("forged")}
	}
	for _, c := range []struct {
		name, drop string
		ether      layers.Ethernet
		rest       []gopacket.SerializableLayer
	}{
		{"the other's address", "drop-source", layers.Ethernet{SrcMAC: own, DstMAC: bridge, EthernetType: layers.EthernetTypeIPv4}, over(two.addr4)},
		{"the other's hardware address", "drop-source", layers.Ethernet{SrcMAC: other, DstMAC: bridge, EthernetType: layers.EthernetTypeIPv4}, over(two.addr4)},
		{"an address of the internet", "drop-source", layers.Ethernet{SrcMAC: own, DstMAC: bridge, EthernetType: layers.EthernetTypeIPv4}, over("198.51.100.10")},
		{"an arp answer for the gateway", "drop-neighbour", layers.Ethernet{SrcMAC: own, DstMAC: other, EthernetType: layers.EthernetTypeARP}, []gopacket.SerializableLayer{&layers.ARP{
			AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4, Operation: layers.ARPReply,
			SourceHwAddress: own, SourceProtAddress: net.ParseIP(h.gateway4()).To4(), DstHwAddress: other, DstProtAddress: net.ParseIP(two.addr4).To4()}}},
		{"to everybody", "drop-multicast", layers.Ethernet{SrcMAC: own, DstMAC: layers.EthernetBroadcast, EthernetType: layers.EthernetTypeIPv4}, over(one.addr4)},
		{"another protocol", "drop-protocol", layers.Ethernet{SrcMAC: own, DstMAC: other, EthernetType: layers.EthernetType(0x88b5)}, []gopacket.SerializableLayer{gopacket.Payload(strings.Repeat("x", 46))}},
	} {
		before := len(u.flows())
		one.send(append([]gopacket.SerializableLayer{&c.ether}, c.rest...)...)
		u.awaitDropped(one, c.drop)
		if flows := u.flows(); len(flows) != before {
			t.Errorf("%s: there are flows: %v", c.name, flows)
		}
	}

	one.do("ip", "addr", "add", two.addr4+"/24", "dev", "eth0") // two had it first
	time.Sleep(5 * time.Second / 2)                             // weir has seen it
	one.send(append([]gopacket.SerializableLayer{&layers.Ethernet{SrcMAC: own, DstMAC: bridge, EthernetType: layers.EthernetTypeIPv4}}, over(two.addr4)...)...)
	if got := two.probe("tcp", "198.51.100.20:7", "mine"); got != "mine" {
		t.Errorf("the container whose address was taken gets %q", got)
	}
	for _, e := range u.flows() {
		if e.App == one.app() && e.Details.Src_IP.String() == two.addr4 || e.App == two.app() && e.Details.Src_IP.String() != two.addr4 {
			t.Errorf("a flow of the wrong one: %+v", e)
		}
	}
}

// flows are the network-connect events.
func (u *upDoor) flows() (list []hostEvent) {
	for _, e := range u.read() {
		if e.Event == "network-connect" {
			list = append(list, e)
		}
	}
	return list
}

// TestHostDoorInward: what comes from outside to a container works as without weir, published ports included, and opens no
// way out for it.
func TestHostDoorInward(t *testing.T) {
	h := newHostNet(t)
	one := h.box(2)
	serveEcho(t, one, 8000)
	h.do("nft", fmt.Sprintf("table ip published { chain pre { type nat hook prerouting priority -100; tcp dport 9000 dnat to %s:8000; }; "+
		"chain post { type nat hook postrouting priority 100; ip saddr 10.99.%d.0/24 oifname != \"br0\" masquerade; }; }", one.addr4, h.n))
	before := h.snapshot()
	u := h.up("--bridge", "br0", "--mode", "enforce")
	outside := fmt.Sprintf("192.0.%d.2:9000", 100+h.n)
	for name, dial := range map[string]func() (net.Conn, error){
		"published": func() (c net.Conn, err error) {
			err = world.Internet(func() error { c, err = net.DialTimeout("tcp", outside, 5*time.Second); return err })
			return c, err
		},
		"from the host": func() (c net.Conn, err error) {
			err = h.in(func() error { c, err = net.DialTimeout("tcp", one.addr4+":8000", 5*time.Second); return err })
			return c, err
		},
	} {
		c, err := dial()
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		c.SetDeadline(time.Now().Add(5 * time.Second))
		c.Write([]byte("inward"))
		b := make([]byte, 6)
		if _, err := io.ReadFull(c, b); err != nil || string(b) != "inward" {
			t.Errorf("%s: %q, %v", name, b, err)
		}
		c.Close()
	}
	if one.open("tcp", "198.51.100.20:7", "x") || one.open("tcp", outside, "x") {
		t.Error("the container reaches out")
	}
	u.end(syscall.SIGTERM)
	h.unchanged(before)
}

// TestHostDoorReplies: a connection that begins with an answer of weir's, because the kernel has forgotten the question, is
// none whose replies pass the door.
func TestHostDoorReplies(t *testing.T) {
	h := newHostNet(t)
	one := h.box(2)
	u := h.up("--bridge", "br0", "--allow", "198.51.100.78:9/udp")
	at := netip.MustParseAddrPort("198.51.100.78:9")
	pc, err := world.ListenPacket(at)
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	var conn net.Conn
	if err := inNamespace(one.ns, func() (err error) { conn, err = net.Dial("udp", at.String()); return err }); err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	from := func(want string) net.Addr {
		t.Helper()
		b := make([]byte, 100)
		pc.SetReadDeadline(time.Now().Add(5 * time.Second))
		n, addr, err := pc.ReadFrom(b)
		if err != nil || string(b[:n]) != want {
			t.Fatalf("the server got %q, %v", b[:n], err)
		}
		return addr
	}
	conn.Write([]byte("question"))
	weir := from("question")
	if strings.HasPrefix(weir.String(), "10.99.") {
		t.Fatalf("the question comes from the container itself: %v", weir)
	}
	h.forgetConnections()
	pc.WriteTo([]byte("answer"), weir)
	b := make([]byte, 100)
	conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	if n, err := conn.Read(b); err != nil || string(b[:n]) != "answer" {
		t.Fatalf("the container got %q, %v", b[:n], err)
	}
	conn.Write([]byte("again"))
	if again := from("again"); again.String() != weir.String() {
		t.Errorf("a datagram passed the door: it came from %v, not from %v", again, weir)
	}
	u.end(syscall.SIGTERM)
}

// forgetConnections empties the kernel's table of connections (CTNETLINK's IPCTNL_MSG_CT_DELETE).
func (h *hostNet) forgetConnections() {
	h.t.Helper()
	err := h.in(func() error {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		m := make([]byte, 20)
		m[0], m[4], m[5], m[6] = 20, 2, 1, unix.NLM_F_REQUEST|unix.NLM_F_ACK
		if err := unix.Sendto(fd, m, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
			return err
		}
		answer := make([]byte, 4096)
		n, _, err := unix.Recvfrom(fd, answer, 0)
		if err == nil && (n < 20 || answer[16]|answer[17]|answer[18]|answer[19] != 0) {
			err = fmt.Errorf("the kernel says % x", answer[:n])
		}
		return err
	})
	if err != nil {
		h.t.Fatal("empty the table of connections:", err)
	}
}
