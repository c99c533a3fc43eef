//go:build linux

package tests

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

// uplinkTap sees every frame on the host's uplink. What leaves a machine is told by its wire, not by the program that says
// that nothing left.
type uplinkTap struct{ fd int }

// tapUplink starts to look. Tests that use it must not run beside others that send.
func tapUplink(t *testing.T) *uplinkTap {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal("packet socket:", err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	links, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if l.Flags&net.FlagLoopback == 0 && l.Flags&net.FlagUp != 0 {
			if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: 0x0300 /* ETH_P_ALL, big endian */, Ifindex: l.Index}); err != nil {
				t.Fatal("bind packet socket:", err)
			}
			return &uplinkTap{fd}
		}
	}
	t.Fatal("the playground has no uplink")
	return nil
}

// sent returns the packets that programs of the host sent since the last call, described. What the kernel says on its own
// to find neighbours and routers is not among them.
func (u *uplinkTap) sent(t *testing.T) (packets []string) {
	frame := make([]byte, 65536)
	for {
		n, from, err := unix.Recvfrom(u.fd, frame, 0)
		if errors.Is(err, unix.EAGAIN) {
			break
		}
		if err != nil {
			t.Fatal("read uplink:", err)
		}
		if ll, ok := from.(*unix.SockaddrLinklayer); ok && ll.Pkttype == unix.PACKET_OUTGOING && !upkeep(frame[:n]) {
			packets = append(packets, describeFrame(frame[:n]))
		}
	}
	if stats, err := unix.GetsockoptTpacketStats(u.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS); err != nil || stats.Drops > 0 {
		t.Fatalf("the tap lost frames: %+v, %v", stats, err)
	}
	return packets
}

// upkeep reports whether the frame is ARP, neighbour or router discovery, a multicast membership report, or the kernel's word
// that a late datagram found nobody.
func upkeep(f []byte) bool {
	if len(f) < 14 {
		return false
	}
	packet := f[14:]
	switch binary.BigEndian.Uint16(f[12:]) {
	case unix.ETH_P_ARP:
		return true
	case unix.ETH_P_IP:
		return len(packet) > 9 && packet[9] == unix.IPPROTO_IGMP || isLateAnswer(packet)
	case unix.ETH_P_IPV6:
		if len(packet) < 48 {
			return false
		}
		next, body := packet[6], packet[40:]
		if next == 0 { // hop by hop options, as reports have
			skip := 8 + int(body[1])*8
			if next, body = body[0], body[min(skip, len(body)):]; len(body) == 0 {
				return false
			}
		}
		return next == unix.IPPROTO_ICMPV6 && (body[0] >= 130 && body[0] <= 137 || body[0] == 143)
	}
	return false
}

func describeFrame(f []byte) string {
	if len(f) < 34 {
		return fmt.Sprintf("%x", f)
	}
	if binary.BigEndian.Uint16(f[12:]) == unix.ETH_P_IP {
		return fmt.Sprintf("protocol %d to %s, %d bytes", f[23], net.IP(f[30:34]), len(f))
	}
	return fmt.Sprintf("ethertype %x, %d bytes", f[12:14], len(f))
}

// TestUplinkTapSees is the control of every test that finds the uplink silent.
func TestUplinkTapSees(t *testing.T) {
	tap := tapUplink(t)
	c, err := net.Dial("udp", net.JoinHostPort(nobody.String(), "9"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := tap.sent(t); len(got) > 0 {
		t.Fatalf("before anything was sent: %v", got)
	}
	before, err := world.Sent()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if got := tap.sent(t); len(got) != 1 {
		t.Errorf("one datagram was sent, the tap saw %v", got)
	}
	if after, err := world.Sent(); err != nil || after <= before {
		t.Errorf("the uplink counted %d packets before and %d after, %v", before, after, err)
	}
}

// isLateAnswer reports whether an IPv4 packet is an ICMP message "port unreachable" about a datagram that its receiver had sent:
// the answer of a DNS server, or what a QUIC server goes on to say to a client that is gone.
func isLateAnswer(packet []byte) bool {
	const ip, icmp = 20, 8
	if len(packet) < ip+icmp+ip || packet[9] != unix.IPPROTO_ICMP || packet[ip] != 3 || packet[ip+1] != 3 {
		return false
	}
	quoted := packet[ip+icmp:]
	return quoted[9] == unix.IPPROTO_UDP && string(quoted[12:16]) == string(packet[16:20])
}
