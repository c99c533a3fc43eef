package netstack

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weir-dev/weir/flow"
	"github.com/weir-dev/weir/internal/ping"
	"github.com/weir-dev/weir/internal/testnet"
)

// kernelStage tells a re-executed test binary that it runs in a network namespace of its own.
const kernelStage = "WEIR_NETSTACK_TEST_STAGE"

// inNamespace runs the calling test again in new user and network namespaces, and reports whether the caller is that
// second run.
func inNamespace(t *testing.T) bool {
	t.Helper()
	if os.Getenv(kernelStage) != "" {
		return true
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=1m")
	cmd.Env = append(os.Environ(), kernelStage+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Skipf("user and network namespaces are not available: %v", err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("in the namespace: %v\n%s", err, out.String())
	}
	if strings.Contains(out.String(), "--- SKIP") {
		t.Skip(out.String())
	}
	return false
}

// newKernelDoor makes the namespace's own kernel the guest: a TAP with every offload, its addresses and routes, and a
// door on its descriptor. It ends with the test.
func newKernelDoor(t *testing.T, h flow.Handler) *Stack {
	t.Helper()
	link := openTAP(t)
	awaitIPv6(t)
	s, err := New(Config{
		Link: link, Addr4: guest4, Gateway4: gateway4, Addr6: guest6, Gateway6: gateway6,
		GuestMAC: guestMAC, GatewayMAC: gatewayMAC,
	})
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(context.Background(), h) }()
	t.Cleanup(func() {
		s.Close()
		<-served
	})
	return s
}

// openTAP makes the namespace's device, with segmentation of UDP where the kernel has that.
func openTAP(t *testing.T) Link {
	t.Helper()
	fd, err := makeTAP()
	if err != nil {
		t.Skipf("no TAP in a user namespace here: %v", err)
	}
	const uso4, uso6 = 0x20, 0x40 // TUN_F_USO4, TUN_F_USO6
	offload := unix.TUN_F_CSUM | unix.TUN_F_TSO4 | unix.TUN_F_TSO6 | uso4 | uso6
	return Link{
		File:    os.NewFile(uintptr(fd), "tap0"),
		Kind:    "tap",
		VnetHdr: vnetHdrLen,
		TSO:     true,
		USO:     unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, offload) == nil,
	}
}

// awaitIPv6 waits until the kernel takes packets to its new IPv6 address, which it adds to its routes in its own time.
func awaitIPv6(t *testing.T) {
	t.Helper()
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		t.Fatal(err)
	}
	self, err := net.ListenUDP("udp6", &net.UDPAddr{IP: guest6.AsSlice()})
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	for giveUp := time.Now().Add(patience); time.Now().Before(giveUp); {
		self.WriteTo([]byte("x"), self.LocalAddr())
		self.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
		if _, _, err := self.ReadFrom(make([]byte, 1)); err == nil {
			return
		}
	}
	t.Fatal("the kernel's IPv6 address never came up")
}

// A real kernel understands what the door says: datagrams of every size, and refusals as errno.
func TestKernelUDP(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	s := newKernelDoor(t, handlerFunc(func(ctx context.Context, a flow.Arrival) {
		switch a.Dst.Port() {
		case 1:
			a.Reject(flow.Denied)
		case 2:
			a.Reject(flow.HostUnreachable)
		case 3:
			a.Reject(flow.NetUnreachable)
		default:
			plainEcho(ctx, a)
		}
	}))
	for _, host := range []string{"192.0.2.1", "[2001:db8::1]"} {
		conn, err := net.Dial("udp", host+":9")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(patience))
		b := make([]byte, 1<<16)
		for _, size := range []int{0, 1, 1400, 1473, 9000, 65507} {
			p := bytes.Repeat([]byte{byte(size)}, size)
			if _, err := conn.Write(p); err != nil {
				t.Fatalf("%s: write %d bytes: %v", host, size, err)
			}
			if n, err := conn.Read(b); err != nil || !bytes.Equal(b[:n], p) {
				t.Errorf("%s: %d bytes came back as %d, %v; %v", host, size, n, err, s.Counters())
			}
		}
		for port, want := range map[string]error{"1": unix.ECONNREFUSED, "2": unix.EHOSTUNREACH, "3": unix.ENETUNREACH} {
			refused, err := net.Dial("udp", host+":"+port)
			if err != nil {
				t.Fatal(err)
			}
			defer refused.Close()
			reportErrors(t, refused.(*net.UDPConn))
			refused.SetDeadline(time.Now().Add(patience))
			refused.Write([]byte("x"))
			if _, err := refused.Read(b); !errors.Is(err, want) {
				t.Errorf("%s:%s: %v, want %v", host, port, err, want)
			}
		}
	}
}

// batchEcho sends every datagram back by the batch: on the read loop where that does not have to wait.
type batchEcho struct{ flow.BatchConn }

func (e batchEcho) TryBatch(datagrams [][]byte) (int, error) {
	return len(datagrams), e.WriteBatch(datagrams)
}

func (e batchEcho) WriteBatch(datagrams [][]byte) error {
	_, err := e.BatchConn.WriteBatch(datagrams)
	return err
}

// A real kernel's datagrams pass the short way, and come back as super-datagrams, as if they had passed one by one.
func TestKernelUDPBatches(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	s := newKernelDoor(t, handlerFunc(func(_ context.Context, a flow.Arrival) {
		conn, err := a.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		conn.(flow.BatchConn).Forward(batchEcho{conn.(flow.BatchConn)})
	}))
	for _, to := range []string{"192.0.2.1:443", "[2001:db8::1]:443"} {
		conn, err := net.Dial("udp", to)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if n, _, err := testnet.Datagrams(conn, 65507, 150, 1); err != nil {
			t.Errorf("%s: after %d datagrams: %v; %v", to, n, err, s.Counters())
		}
	}
	if s.link.uso.Load() && s.counters.get(countUDPShort) == 0 || s.counters.get(countUSOOff) != 0 {
		t.Errorf("counters %v", s.Counters())
	}
}

// reportErrors makes a socket report transient ICMP errors, too (IP_RECVERR).
func reportErrors(t *testing.T, conn *net.UDPConn) {
	raw, err := conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	raw.Control(func(fd uintptr) {
		unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_RECVERR, 1)
		unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVERR, 1)
	})
}

// With UDP_SEGMENT a program hands the kernel many datagrams as one; the boundaries survive the door (QUIC sends so).
func TestKernelUDPSegments(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	got := make(chan int, 100)
	newKernelDoor(t, handlerFunc(func(_ context.Context, a flow.Arrival) {
		conn, _ := a.Accept()
		b := make([]byte, 1<<16)
		for {
			n, err := conn.Read(b)
			if err != nil {
				return
			}
			got <- n
		}
	}))
	for _, to := range []string{"192.0.2.1:443", "[2001:db8::1]:443"} {
		conn, err := net.Dial("udp", to)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		oob := make([]byte, unix.CmsgSpace(2))
		h := (*unix.Cmsghdr)(unsafe.Pointer(&oob[0]))
		h.Level, h.Type = unix.IPPROTO_UDP, unix.UDP_SEGMENT
		h.SetLen(unix.CmsgLen(2))
		binary.NativeEndian.PutUint16(oob[unix.CmsgLen(0):], 1200)
		if _, _, err := conn.(*net.UDPConn).WriteMsgUDP(make([]byte, 10*1200+7), oob, nil); err != nil {
			t.Skipf("no UDP_SEGMENT here: %v", err)
		}
		for i := range 11 {
			want := 1200
			if i == 10 {
				want = 7
			}
			select {
			case n := <-got:
				if n != want {
					t.Errorf("%s: datagram %d has %d bytes, want %d", to, i, n, want)
				}
			case <-time.After(patience):
				t.Fatalf("%s: datagram %d did not come", to, i)
			}
		}
	}
}

// The whole way of a ping: a ping socket inside, the door, and replies that the program's kernel takes for its own.
func TestKernelPing(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte("0 0"), 0); err != nil {
		t.Skipf("the namespace's ping_group_range cannot be set here: %v", err)
	}
	newKernelDoor(t, handlerFunc(func(ctx context.Context, a flow.Arrival) {
		if a.Dst.Addr().As16()[15] == 99 {
			a.Reject(flow.Denied)
			return
		}
		pinger(ctx, a)
	}))
	for _, c := range []struct {
		addr string
		want error
	}{
		{"192.0.2.1", nil}, {"2001:db8::1", nil},
		{"10.77.0.1", nil}, {"fd77::1", nil}, // the gateway answers by itself
		{"192.0.2.99", unix.EHOSTUNREACH}, {"2001:db8::63", unix.EACCES},
	} {
		addr := netip.MustParseAddr(c.addr)
		conn, err := ping.Dial(t.Context(), addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(patience))
		request := []byte{8, 0, 0, 0, 0, 0, 0, 7, 'w', 'e', 'i', 'r'}
		if addr.Is6() {
			request[0] = 128
		}
		if _, err := conn.Write(request); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 100)
		n, err := conn.Read(b)
		if !errors.Is(err, c.want) || err == nil && (n != len(request) || !bytes.Equal(b[6:n], request[6:])) {
			t.Errorf("ping %s: % x, %v, want %v", addr, b[:n], err, c.want)
		}
	}
}
