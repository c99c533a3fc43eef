//go:build linux

package sandbox

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestLinkCarriesFrames: a datagram from inside comes out of the descriptor as one frame, and goes back by it.
func TestLinkCarriesFrames(t *testing.T) {
	for _, kind := range []string{"tap", "veth"} {
		for name, addr := range map[string]string{"ipv4": "192.0.2.7:5353", "ipv6": "[2001:db8::7]:5353"} {
			t.Run(kind+"/"+name, func(t *testing.T) {
				if kind == "tap" {
					requireTun(t)
				}
				spec := probeSpec(t, "echo "+addr)
				spec.Link = kind
				out := capture(t, &spec)
				s, err := Start(spec)
				if err != nil {
					t.Fatal(err)
				}
				defer s.Close()
				link, info := s.Link()
				defer link.Close()
				if info.Kind != kind || info.VnetHdr != 10 || info.MTU != 1500 || !info.TSO {
					t.Errorf("link %+v", info)
				}
				if again, _ := s.Link(); again != nil {
					t.Error("the link was given away twice")
				}
				if err := s.Release(); err != nil {
					t.Fatal(err)
				}
				reflectDatagram(t, link, spec, netip.MustParseAddrPort(addr))
				if got, err := s.Wait(); err != nil || got.Code != 0 {
					t.Errorf("got %+v, %v", got, err)
				}
				if got := out(); got != "<nil>\n" {
					t.Errorf("inside: %s", got)
				}
				noEcho(t, link, spec)
			})
		}
	}
}

// reflectDatagram reads frames until one is UDP to addr and sends it back with all ends exchanged, which leaves the
// checksum, partial or not, as it is.
func reflectDatagram(t *testing.T, link *os.File, spec Spec, addr netip.AddrPort) {
	t.Helper()
	buf := make([]byte, 65536+64)
	link.SetReadDeadline(time.Now().Add(patience))
	for {
		n, err := link.Read(buf)
		if err != nil {
			t.Fatalf("read frame: %v", err)
		}
		frame := buf[vnetHdrLen:n]
		src, ports := 12, 20 // of IPv4
		if addr.Addr().Is6() {
			src, ports = 8, 40
		}
		size, ip := addr.Addr().BitLen()/8, frame[14:]
		if dst, _ := netip.AddrFromSlice(ip[src+size : src+2*size]); dst != addr.Addr() || binary.BigEndian.Uint16(ip[ports+2:]) != addr.Port() {
			continue
		}
		if !bytes.Equal(frame[:6], spec.GatewayMAC) || !bytes.Equal(frame[6:12], spec.GuestMAC) {
			t.Errorf("frame to %x from %x", frame[:6], frame[6:12])
		}
		exchange(frame[0:6], frame[6:12])
		exchange(ip[src:src+size], ip[src+size:src+2*size])
		exchange(ip[ports:ports+2], ip[ports+2:ports+4])
		if _, err := link.Write(buf[:n]); err != nil {
			t.Fatalf("write frame: %v", err)
		}
		return
	}
}

// noEcho: what was written to the link is not read from it.
func noEcho(t *testing.T, link *os.File, spec Spec) {
	t.Helper()
	buf := make([]byte, 65536+64)
	link.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	for {
		n, err := link.Read(buf)
		if err != nil {
			return
		}
		if bytes.Equal(buf[vnetHdrLen+6:vnetHdrLen+12], spec.GatewayMAC) {
			t.Errorf("read back what was written: %x", buf[:n])
		}
	}
}

func exchange(a, b []byte) {
	for i := range a {
		a[i], b[i] = b[i], a[i]
	}
}

// capture gives spec a stdout that the returned func reads.
func capture(t *testing.T, spec *Spec) func() string {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "out")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	spec.Stdout = f
	return func() string {
		b, err := os.ReadFile(f.Name())
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
}

// TestNoFrameUnasked: an idle sandbox is silent: no ARP, no neighbour or router discovery.
func TestNoFrameUnasked(t *testing.T) {
	for _, kind := range []string{"tap", "veth"} {
		t.Run(kind, func(t *testing.T) {
			if kind == "tap" {
				requireTun(t)
			}
			spec := testSpec("")
			spec.Link = kind
			s, err := Start(spec)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			link, _ := s.Link()
			defer link.Close()
			link.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
			buf := make([]byte, 2048)
			if n, err := link.Read(buf); err == nil {
				t.Errorf("frame %x", buf[:n])
			}
		})
	}
}

// TestLinkDiesWithDescriptor: when the last copy of the descriptor is closed nothing is carried any more.
func TestLinkDiesWithDescriptor(t *testing.T) {
	requireTun(t)
	spec := probeSpec(t, "echo 192.0.2.7:53")
	spec.Link = "tap"
	out := capture(t, &spec)
	s, err := Start(spec)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	link, _ := s.Link()
	link.Close()
	if err := s.Release(); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Wait(); err != nil || out() == "<nil>\n" {
		t.Errorf("got %+v, %v, inside %q", got, err, out())
	}
}

func TestHostPortListeners(t *testing.T) {
	const port = 80 // below 1024: needs a capability inside
	for _, addr := range []string{"127.0.0.1:80", "[::1]:80"} {
		t.Run(addr, func(t *testing.T) {
			spec := probeSpec(t, "get "+addr)
			spec.HostPorts = []uint16{port, 5432}
			out := capture(t, &spec)
			s, err := Start(spec)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			all := s.HostPortListeners()
			if len(all) != 2 || len(all[port]) != 2 || len(all[5432]) != 2 {
				t.Fatalf("listeners %v", all)
			}
			for _, files := range all {
				for _, f := range files {
					defer f.Close()
				}
			}
			for _, f := range all[port] {
				l, err := net.FileListener(f)
				if err != nil {
					t.Fatal(err)
				}
				defer l.Close()
				go greet(l)
			}
			if err := s.Release(); err != nil {
				t.Fatal(err)
			}
			if got, err := s.Wait(); err != nil || got.Code != 0 || out() != "hello from outside" {
				t.Errorf("got %+v, %v, inside %q", got, err, out())
			}
		})
	}
}

func greet(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		c.Write([]byte("hello from outside"))
		c.Close()
	}
}

func TestDialSocket(t *testing.T) {
	for _, addr := range []string{"127.0.0.1:8080", "[::1]:8081", "0.0.0.0:8082"} {
		t.Run(addr, func(t *testing.T) {
			ap := netip.MustParseAddrPort(addr)
			s, _ := startedProbe(t, "serve "+addr)
			dial := s.DialSocket()
			defer dial.Close()
			if _, errno := askDial(t, dial, 9); errno != unix.ECONNREFUSED {
				t.Errorf("closed port: %v", errno)
			}
			fd, errno := askDial(t, dial, ap.Port())
			if errno != 0 {
				t.Fatalf("dial: %v", errno)
			}
			f := os.NewFile(uintptr(fd), "conn")
			defer f.Close()
			f.SetReadDeadline(time.Now().Add(patience))
			if got, err := io.ReadAll(f); err != nil || string(got) != "hello from inside" {
				t.Errorf("read %q, %v", got, err)
			}
		})
	}
}

// startedProbe is started for a probe that says "listening".
func startedProbe(t *testing.T, what string) (*Sandbox, *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	spec := probeSpec(t, what)
	spec.Stdout = w
	s, err := Start(spec)
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close(); r.Close() })
	if err := s.Release(); err != nil {
		t.Fatal(err)
	}
	r.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.ReadFull(r, make([]byte, len("listening\n"))); err != nil {
		t.Fatal(err)
	}
	return s, r
}

func askDial(t *testing.T, dial *os.File, port uint16) (int, unix.Errno) {
	t.Helper()
	fd := int(dial.Fd())
	if err := unix.Send(fd, binary.BigEndian.AppendUint16(nil, port), 0); err != nil {
		t.Fatal(err)
	}
	buf, oob := make([]byte, 16), make([]byte, 64)
	n, oobn, _, _, err := unix.Recvmsg(fd, buf, oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil || n != 4 || binary.BigEndian.Uint16(buf) != port {
		t.Fatalf("answer of %d bytes %x, %v", n, buf[:max(n, 0)], err)
	}
	fds, err := parseRights(oob[:oobn])
	if err != nil {
		t.Fatal(err)
	}
	errno := unix.Errno(binary.BigEndian.Uint16(buf[2:]))
	if errno != 0 {
		return -1, errno
	}
	if len(fds) != 1 {
		t.Fatalf("%d descriptors", len(fds))
	}
	return fds[0], 0
}

// TestDiagSocket: the socket asks the sandbox's namespace, not ours.
func TestDiagSocket(t *testing.T) {
	s, _ := startedProbe(t, "serve 127.0.0.1:8080")
	diag := s.DiagSocket()
	if diag == nil {
		t.Skip("the kernel has no NETLINK_SOCK_DIAG")
	}
	defer diag.Close()
	fd := int(diag.Fd())
	// struct nlmsghdr, struct inet_diag_req_v2: all listening TCP sockets of IPv4 (inet_diag.h).
	req := make([]byte, 16+56)
	binary.NativeEndian.PutUint32(req[0:], uint32(len(req)))
	binary.NativeEndian.PutUint16(req[4:], 20) // SOCK_DIAG_BY_FAMILY
	binary.NativeEndian.PutUint16(req[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	req[16], req[17] = unix.AF_INET, unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(req[20:], 1<<10) // TCP_LISTEN
	if err := unix.Sendto(fd, req, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		t.Fatal(err)
	}
	unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5})
	buf := make([]byte, 8192)
	n, _, err := unix.Recvfrom(fd, buf, 0)
	if err != nil {
		t.Fatal(err)
	}
	// inet_diag_msg: family, state, timer, retrans, then the source port.
	if size := binary.NativeEndian.Uint32(buf); n < 24 || binary.NativeEndian.Uint16(buf[4:]) != 20 || binary.BigEndian.Uint16(buf[20:]) != 8080 || int(size) > n {
		t.Errorf("answer %x", buf[:min(n, 64)])
	}
}

// TestManyHostPorts: all that the spec allows fits the one message.
func TestManyHostPorts(t *testing.T) {
	spec := testSpec("exit 0")
	for i := range maxHostPorts {
		spec.HostPorts = append(spec.HostPorts, uint16(2000+i))
	}
	s, err := Start(spec)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	all := s.HostPortListeners()
	if len(all) != maxHostPorts {
		t.Errorf("%d ports", len(all))
	}
	for _, files := range all {
		for _, f := range files {
			f.Close()
		}
	}
	spec.HostPorts = append(spec.HostPorts, 1999)
	if _, err := Start(spec); err == nil {
		t.Errorf("%s host ports were accepted", strconv.Itoa(len(spec.HostPorts)))
	}
}
