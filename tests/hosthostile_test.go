//go:build linux

package tests

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"
)

// Containers with root inside, and hosts in disorder, before weir tproxy up.

// TestHostDoorClaims: what a container says its addresses are is only heard where the host, too, would look for it there. With
// the address of a server that the host talks to it could speak for that server; with the bridge's, for the host.
func TestHostDoorClaims(t *testing.T) {
	h := newHostNet(t)
	one, two := h.box(2), h.box(3)
	u := h.up("--bridge", "br0", "--mode", "audit")
	own, other, bridge := mac(t, one.ns, "eth0").HardwareAddr, mac(t, two.ns, "eth0").HardwareAddr, mac(t, h.ns, "br0").HardwareAddr
	for _, claim := range []string{h.gateway4() + "/24", "198.51.100.20/32"} {
		one.do("ip", "addr", "add", claim, "dev", "eth0")
	}
	time.Sleep(4 * time.Second) // weir looks every three
	for _, src := range []string{h.gateway4(), "198.51.100.20"} {
		before := u.droppedSoFar(one, "drop-source")
		l := &layers.IPv4{Version: 4, TTL: 64, SrcIP: net.ParseIP(src), DstIP: net.ParseIP("198.51.100.10"), Protocol: layers.IPProtocolUDP}
		d := &layers.UDP{SrcPort: 7, DstPort: 4000}
		d.SetNetworkLayerForChecksum(l)
		one.send(&layers.Ethernet{SrcMAC: own, DstMAC: bridge, EthernetType: layers.EthernetTypeIPv4}, l, d, gopacket.Payload("forged"))
		if !soon(func() bool { return u.droppedSoFar(one, "drop-source") > before }) {
			t.Errorf("what comes from %s is not dropped", src)
		}
	}
	one.do("ip", "addr", "del", h.gateway4()+"/24", "dev", "eth0")
	one.send(&layers.Ethernet{SrcMAC: own, DstMAC: other, EthernetType: layers.EthernetTypeARP}, &layers.ARP{
		AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4, Operation: layers.ARPReply,
		SourceHwAddress: own, SourceProtAddress: net.ParseIP(h.gateway4()).To4(), DstHwAddress: other, DstProtAddress: net.ParseIP(two.addr4).To4()})
	u.awaitDropped(one, "drop-neighbour")
}

// droppedSoFar counts.
func (u *upDoor) droppedSoFar(b *box, what string) (n int) {
	for _, e := range u.read() {
		if e.Event == "dropped" && e.App == b.app() && e.Details.What == what {
			n += e.Details.Count
		}
	}
	return n
}

// TestHostDoorTagged: a frame with a VLAN tag is dropped. Where the host has a link for the tag (br0.5) it would come up by
// that one, before which there is no door.
func TestHostDoorTagged(t *testing.T) {
	h := newHostNet(t)
	one := h.box(2)
	u := h.up("--bridge", "br0", "--mode", "audit")
	own, bridge := mac(t, one.ns, "eth0").HardwareAddr, mac(t, h.ns, "br0").HardwareAddr
	l := &layers.IPv4{Version: 4, TTL: 64, SrcIP: net.ParseIP(one.addr4), DstIP: net.ParseIP("198.51.100.20"), Protocol: layers.IPProtocolUDP}
	d := &layers.UDP{SrcPort: 4000, DstPort: 7}
	d.SetNetworkLayerForChecksum(l)
	one.send(&layers.Ethernet{SrcMAC: own, DstMAC: bridge, EthernetType: layers.EthernetTypeDot1Q},
		&layers.Dot1Q{VLANIdentifier: 5, Type: layers.EthernetTypeIPv4}, l, d, gopacket.Payload("tagged"))
	u.awaitDropped(one, "drop-protocol")
}

// TestHostDoorAnswersOnly: what passes as the answer to a connection from outside is an answer of the container that was
// called, about that connection.
func TestHostDoorAnswersOnly(t *testing.T) {
	for _, c := range []struct {
		name   string
		single bool
	}{{"on a bridge", false}, {"on a link of its own", true}} {
		t.Run(c.name, func(t *testing.T) {
			h := newHostNet(t)
			one, args := (*box)(nil), []string{"--bridge", "br0"}
			link := "br0"
			if c.single {
				one = h.alone(2)
				args, link = []string{"--netns", fmt.Sprint(one.cmd.Process.Pid)}, one.port
			} else {
				one = h.box(2)
			}
			u := h.up(append(args, "--mode", "enforce")...)
			var conn net.Conn
			if err := h.in(func() (err error) { conn, err = net.Dial("udp", "198.51.100.78:9"); return err }); err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.Write([]byte("question")) // nobody answers
			me := conn.LocalAddr().(*net.UDPAddr)
			own, up := mac(t, one.ns, "eth0").HardwareAddr, mac(t, h.ns, link).HardwareAddr
			ether := &layers.Ethernet{SrcMAC: own, DstMAC: up, EthernetType: layers.EthernetTypeIPv4}

			asked := &layers.IPv4{Version: 4, TTL: 64, SrcIP: me.IP, DstIP: net.ParseIP("198.51.100.78"), Protocol: layers.IPProtocolUDP}
			question := &layers.UDP{SrcPort: layers.UDPPort(me.Port), DstPort: 9}
			question.SetNetworkLayerForChecksum(asked)
			quoted := gopacket.NewSerializeBuffer()
			gopacket.SerializeLayers(quoted, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, asked, question, gopacket.Payload("question"))
			one.send(ether, &layers.IPv4{Version: 4, TTL: 64, SrcIP: net.ParseIP(one.addr4), DstIP: me.IP, Protocol: layers.IPProtocolICMPv4},
				&layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(layers.ICMPv4TypeDestinationUnreachable, layers.ICMPv4CodePort)}, gopacket.Payload(quoted.Bytes()))
			if !c.single {
				u.awaitDropped(one, "drop-protocol")
			}

			forged := &layers.IPv4{Version: 4, TTL: 64, SrcIP: net.ParseIP("198.51.100.78"), DstIP: me.IP, Protocol: layers.IPProtocolUDP}
			answer := &layers.UDP{SrcPort: 9, DstPort: layers.UDPPort(me.Port)}
			answer.SetNetworkLayerForChecksum(forged)
			one.send(ether, forged, answer, gopacket.Payload("forged"))
			conn.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
			b := make([]byte, 20)
			n, err := conn.Read(b)
			if errors.Is(err, syscall.ECONNREFUSED) || err == nil {
				t.Errorf("the host got %q, %v", b[:n], err)
			}
			u.end(syscall.SIGTERM)
		})
	}
}

// alone is a box on a link of its own, with a way to it.
func (h *hostNet) alone(last int) *box {
	b := h.unattached(last)
	h.ip("route add %s/32 dev %s", b.addr4, b.port)
	h.ip("-6 route add %s/128 dev %s", b.addr6, b.port)
	h.sysctl("net/ipv4/conf/"+b.port+"/proxy_arp", "1")
	return b
}

// TestHostDoorStaysShut: what a container can do so that weir loses sight of it does not open the door, and weir goes on once
// it can see again.
func TestHostDoorStaysShut(t *testing.T) {
	const outside = "198.51.100.20:7"
	t.Run("the process goes to another namespace", func(t *testing.T) {
		h := newHostNet(t)
		one := h.alone(2)
		before := h.snapshot()
		goes := exec.Command("sh", "-c", "read x && exec unshare -n sleep 600")
		stdin, err := goes.StdinPipe()
		if err == nil {
			err = inNamespace(one.ns, goes.Start)
		}
		if err != nil {
			t.Fatal(err)
		}
		defer goes.Wait()
		defer goes.Process.Kill()
		h.up("--netns", fmt.Sprint(goes.Process.Pid), "--allow", outside)
		if !one.open("tcp", outside, "x") || one.open("tcp", "198.51.100.10:80", "x") {
			t.Error("the door is not in the way")
		}
		stdin.Write([]byte("\n"))
		time.Sleep(3 * time.Second)
		if one.open("tcp", "198.51.100.10:80", "x") {
			t.Error("the way is open: weir has left")
		}
		h.down()
		h.unchanged(before)
	})
	t.Run("nobody can be listed", func(t *testing.T) {
		h := newHostNet(t)
		one := h.box(2)
		before := h.snapshot()
		u := h.up("--bridge", "br0", "--allow", outside)
		var was unix.Rlimit
		if err := unix.Prlimit(u.cmd.Process.Pid, unix.RLIMIT_NOFILE, nil, &was); err != nil {
			t.Fatal(err)
		}
		few := was
		few.Cur = 4
		unix.Prlimit(u.cmd.Process.Pid, unix.RLIMIT_NOFILE, &few, nil)
		one.do("ip", "link", "set", "eth0", "mtu", "1400") // the host is told of it
		if !soon(func() bool { return strings.Contains(u.stderr.String(), "see who is behind br0") }) {
			t.Error("weir does not say that it cannot see")
		}
		if one.open("tcp", "198.51.100.10:80", "x") {
			t.Error("the way is open")
		}
		unix.Prlimit(u.cmd.Process.Pid, unix.RLIMIT_NOFILE, &was, nil)
		later := h.box(3)
		if !soon(func() bool { return later.open("tcp", outside, "x") }) || later.open("tcp", "198.51.100.10:80", "x") {
			t.Error("weir does not go on")
		}
		u.end(syscall.SIGTERM)
		later.cmd.Process.Kill()
		h.ip("link del %s", later.port)
		h.unchanged(before)
	})
	t.Run("the bridge goes and comes back", func(t *testing.T) {
		h := newHostNet(t)
		one := h.box(2)
		u := h.up("--bridge", "br0", "--allow", outside)
		h.ip("link del br0") // as an engine does when the last container has ended
		u.await("its end", func(e hostEvent) bool { return e.Event == "sandbox-exit" && e.App == one.app() })
		h.addBridge()
		h.ip("link set %s master br0", one.port)
		if one.open("tcp", "198.51.100.10:80", "x") {
			t.Error("the way is open")
		}
		if !soon(func() bool { return one.open("tcp", outside, "x") }) || one.open("tcp", "198.51.100.10:80", "x") {
			t.Error("weir does not stand before the new bridge")
		}
		u.end(syscall.SIGTERM)
	})
	t.Run("the bridge gets another hardware address", func(t *testing.T) {
		h := newHostNet(t)
		one, two := h.box(2), h.box(3)
		u := h.up("--bridge", "br0", "--allow", outside)
		h.ip("link set br0 address 02:11:22:33:44:55")
		two.cmd.Process.Kill()
		h.ip("link del %s", two.port)
		if !soon(func() bool { return one.open("tcp", outside, "x") }) || one.open("tcp", "198.51.100.10:80", "x") {
			t.Error("weir has lost the bridge")
		}
		u.end(syscall.SIGTERM)
	})
}

// TestHostDoorEmptied: rules that are taken out of weir's tables are put back like the tables.
func TestHostDoorEmptied(t *testing.T) {
	const outside = "198.51.100.20:7"
	h := newHostNet(t)
	one := h.box(2)
	before := h.snapshot()
	u := h.up("--bridge", "br0", "--allow", outside)
	for _, what := range []string{"flush table ip weir-br0", "flush chain ip weir-br0 door", "insert rule ip weir-br0 door accept"} {
		h.do("nft", strings.Fields(what)...)
		if !soon(func() bool { return !one.open("tcp", "198.51.100.10:80", "x") }) || !one.open("tcp", outside, "x") {
			t.Errorf("after %s the container goes where it likes", what)
		}
	}
	u.end(syscall.SIGTERM)
	h.unchanged(before)
}

// TestHostDoorDataPathDies: whatever ends the data path of one container cuts that one only, and it gets another.
func TestHostDoorDataPathDies(t *testing.T) {
	const outside = "198.51.100.20:7"
	h := newHostNet(t)
	boxes := []*box{h.box(2), h.box(3)}
	before := h.snapshot()
	u := h.up("--bridge", "br0", "--allow", outside)
	var conns []net.Conn
	for _, b := range boxes {
		err := inNamespace(b.ns, func() error {
			c, err := net.DialTimeout("tcp", outside, patience)
			if err == nil {
				conns = append(conns, c)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range conns {
		if !echoes(c) {
			t.Fatal("a connection carries nothing")
		}
	}
	for _, p := range descendants(t, u.cmd.Process.Pid) {
		if p.name == "weir-datapath" {
			syscall.Kill(p.pid, syscall.SIGKILL)
			break
		}
	}
	alive := 0
	for _, c := range conns {
		defer c.Close()
		if soon(func() bool { return strings.Contains(u.stderr.String(), "it has no way out until there is another") }); echoes(c) {
			alive++
		}
	}
	if alive != 1 {
		t.Errorf("%d connections are left of two, want the one of the other container", alive)
	}
	for _, b := range boxes {
		if !soon(func() bool { return b.open("tcp", outside, "x") }) || b.open("tcp", "198.51.100.10:80", "x") {
			t.Errorf("%s is not carried", b.port)
		}
	}
	u.end(syscall.SIGTERM)
	h.unchanged(before)
}

// echoes says whether what is written comes back.
func echoes(c net.Conn) bool {
	const text = "a line of text\n"
	c.SetDeadline(time.Now().Add(patience))
	b := make([]byte, len(text))
	_, err := io.WriteString(c, text)
	if err == nil {
		_, err = io.ReadFull(c, b)
	}
	return err == nil && string(b) == text
}

// TestHostDoorStrictSources: with reverse path filters as distributions set them the door works, too.
func TestHostDoorStrictSources(t *testing.T) {
	const outside = "198.51.100.20:7"
	for _, filter := range []string{"1", "2"} {
		h := newHostNet(t)
		one := h.box(2)
		h.sysctl("net/ipv4/conf/all/rp_filter", filter)
		h.up("--bridge", "br0", "--allow", outside)
		if !one.open("tcp", outside, "x") || !one.open("udp", outside, "x") || one.open("tcp", "198.51.100.10:80", "x") {
			t.Errorf("with rp_filter=%s the door does not carry", filter)
		}
	}
}

// TestHostDoorEndedEarly: a signal at any time of coming up leaves the host as it was.
func TestHostDoorEndedEarly(t *testing.T) {
	h := newHostNet(t)
	h.box(2)
	before := h.snapshot()
	for ms := 0; ms < 240; ms += 30 {
		cmd := h.weir("tproxy", "up", "--bridge", "br0")
		if err := h.in(cmd.Start); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(ms) * time.Millisecond)
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
		h.unchanged(before)
	}
}
