package netstack

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weir-dev/weir/flow"
)

// tapChild names the environment variable that makes the test binary a sandbox; its value is the program to run there.
const tapChild = "WEIR_NETSTACK_TAP_CHILD"

// tapPrograms are what runs inside, with the sandbox's kernel as the client. A program fails by returning an error.
var tapPrograms = map[string]func() error{
	"errno":    tapErrno,
	"transfer": tapTransfer,
	"iperf3":   tapIperf3,
	"hostile":  tapHostile,
	"hold":     tapHold,
}

// tapSandbox starts program in a user and network namespace of its own, whose only device is a TAP that a door with cfg
// serves, handing its flows to h. It returns what the program printed.
func tapSandbox(t testing.TB, cfg Config, h flow.Handler, program string, args ...string) string {
	t.Helper()
	ours, theirs := controlPair(t)
	defer ours.Close()
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), tapChild+"="+program)
	cmd.ExtraFiles = []*os.File{theirs}
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	if err := cmd.Start(); err != nil {
		theirs.Close()
		t.Skipf("no user namespaces here: %v", err)
	}
	theirs.Close()
	tap, err := receiveFD(ours)
	if err != nil {
		cmd.Process.Kill()
		cmd.Wait()
		t.Skipf("no TAP in a user namespace here: %v: %s", err, out.String())
	}
	cfg.Link = Link{File: os.NewFile(uintptr(tap), "tap"), Kind: "tap", VnetHdr: vnetHdrLen, TSO: true}
	cfg.Addr4, cfg.Gateway4, cfg.Addr6, cfg.Gateway6 = guest4, gateway4, guest6, gateway6
	cfg.GuestMAC, cfg.GatewayMAC = guestMAC, gatewayMAC
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(context.Background(), h) }()
	ours.Write([]byte{1})
	err = cmd.Wait()
	t.Logf("%s: counters %v", program, s.Counters())
	s.Close()
	// A device that was deleted inside ends Serve in one of two ways: read says so, or the poller does.
	if serr := <-served; !errors.Is(serr, ErrClosed) && !errors.Is(serr, unix.EBADFD) && !strings.HasSuffix(serr.Error(), "not pollable") {
		t.Errorf("Serve: %v", serr)
	}
	if err != nil {
		t.Fatalf("%s inside: %v\n%s", program, err, out.String())
	}
	return out.String()
}

func controlPair(t testing.TB) (ours, theirs *os.File) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fds[0]), "control"), os.NewFile(uintptr(fds[1]), "control")
}

// receiveFD takes the one descriptor that the other end sends.
func receiveFD(f *os.File) (int, error) {
	oob := make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := unix.Recvmsg(int(f.Fd()), make([]byte, 1), oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil || n == 0 {
		return -1, fmt.Errorf("child sent no device: %w", errors.Join(err, io.EOF))
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(msgs) != 1 {
		return -1, fmt.Errorf("child sent %d messages: %w", len(msgs), err)
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil {
		return -1, err
	}
	unix.SetNonblock(fds[0], true)
	return fds[0], nil
}

// runTapChild is the sandbox: it makes the device, sends it to the test, waits for the door and runs the program.
func runTapChild(program string) int {
	control := os.NewFile(3, "control")
	fd, err := makeTAP()
	if err == nil {
		err = unix.Sendmsg(int(control.Fd()), []byte{1}, unix.UnixRights(fd), nil, 0)
		unix.Close(fd)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if _, err := control.Read(make([]byte, 1)); err != nil {
		return 1
	}
	if err := tapPrograms[program](); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// makeTAP makes the device with offload and gives it the sandbox's addresses and routes.
func makeTAP() (int, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("open /dev/net/tun: %w", err)
	}
	ifr, _ := unix.NewIfreq("tap0")
	ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		return -1, fmt.Errorf("TUNSETIFF: %w", err)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETHDRSZ, vnetHdrLen); err != nil {
		return -1, fmt.Errorf("TUNSETVNETHDRSZ: %w", err)
	}
	if err := unix.IoctlSetPointerInt(fd, unix.TUNSETVNETLE, 1); err != nil {
		return -1, fmt.Errorf("TUNSETVNETLE: %w", err)
	}
	if err := unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, unix.TUN_F_CSUM|unix.TUN_F_TSO4|unix.TUN_F_TSO6); err != nil {
		return -1, fmt.Errorf("TUNSETOFFLOAD: %w", err)
	}
	return fd, setUpTAP()
}

func setUpTAP() error {
	os.WriteFile("/proc/sys/net/ipv6/conf/tap0/accept_dad", []byte("0"), 0)
	link, err := netlink.LinkByName("tap0")
	if err != nil {
		return err
	}
	steps := []func() error{
		func() error { return netlink.LinkSetHardwareAddr(link, guestMAC) },
		func() error { return netlink.LinkSetUp(link) },
	}
	for _, a := range []struct{ addr, gw netip.Addr }{{guest4, gateway4}, {guest6, gateway6}} {
		host := func(x netip.Addr) *net.IPNet {
			return &net.IPNet{IP: x.AsSlice(), Mask: net.CIDRMask(x.BitLen(), x.BitLen())}
		}
		index := link.Attrs().Index
		steps = append(steps,
			func() error {
				return netlink.AddrAdd(link, &netlink.Addr{IPNet: host(a.addr), Flags: unix.IFA_F_NODAD})
			},
			func() error {
				return netlink.NeighSet(&netlink.Neigh{LinkIndex: index, State: netlink.NUD_PERMANENT, IP: a.gw.AsSlice(), HardwareAddr: gatewayMAC})
			},
			func() error {
				return netlink.RouteAdd(&netlink.Route{LinkIndex: index, Dst: host(a.gw), Scope: netlink.SCOPE_LINK})
			},
			func() error { return netlink.RouteAdd(&netlink.Route{LinkIndex: index, Gw: a.gw.AsSlice()}) },
		)
	}
	for i, step := range steps {
		if err := step(); err != nil {
			return fmt.Errorf("configure tap0, step %d: %w", i, err)
		}
	}
	return nil
}

// tapErrno checks that what the gate says of a flow is what Linux tells the program.
func tapErrno() error {
	for _, host := range []string{"203.0.113.7", "[2001:db8::7]"} {
		for port, want := range map[int]syscall.Errno{
			80 + int(flow.Denied):          syscall.ECONNREFUSED,
			80 + int(flow.Refused):         syscall.ECONNREFUSED,
			80 + int(flow.HostUnreachable): syscall.EHOSTUNREACH,
			80 + int(flow.NetUnreachable):  syscall.ENETUNREACH,
		} {
			c, err := net.DialTimeout("tcp", fmt.Sprintf("%s:%d", host, port), patience)
			if err == nil {
				c.Close()
			}
			if !errors.Is(err, want) {
				return fmt.Errorf("dial %s:%d: %v, want %v", host, port, err, want)
			}
		}
	}
	return nil
}

func TestTAPErrno(t *testing.T) {
	tapSandbox(t, Config{}, handlerOf(func(_ context.Context, a flow.Arrival) {
		if a.Network == "tcp" {
			a.Reject(flow.Reason(a.Dst.Port() - 80))
		}
	}), "errno")
}

// tapTransfer sends and receives at once, over four connections in each family, and compares checksums.
func tapTransfer() error {
	errs := make(chan error)
	n := 0
	for _, host := range []string{"203.0.113.7:80", "[2001:db8::7]:80"} {
		for range 4 {
			n++
			seed := uint64(n)
			go func() {
				c, err := net.Dial("tcp", host)
				if err == nil {
					err = exchange(c.(*net.TCPConn), seed, 8<<20)
				}
				errs <- err
			}()
		}
	}
	var err error
	for range n {
		err = errors.Join(err, <-errs)
	}
	return err
}

func TestTAPTransfer(t *testing.T) {
	l := hostListener(t, func(c *net.TCPConn) {
		if err := mirror(c); err != nil {
			t.Error(err)
		}
	})
	tapSandbox(t, Config{}, toHost(l, nil), "transfer")
}

// tapHostile does to the device what a program with every capability in its namespace can do, and then dials.
func tapHostile() error {
	link, err := netlink.LinkByName("tap0")
	if err != nil {
		return err
	}
	sock, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, int(htons(unix.ETH_P_ALL)))
	if err != nil {
		return err
	}
	to := &unix.SockaddrLinklayer{Ifindex: link.Attrs().Index, Protocol: htons(unix.ETH_P_IP)}
	for _, frame := range hostileFrames() {
		unix.Sendto(sock, frame, 0, to) // the kernel itself refuses some
	}
	for _, step := range []func() error{
		func() error { return netlink.LinkSetDown(link) },
		func() error { return netlink.LinkSetMTU(link, 9000) },
		func() error { return netlink.LinkSetUp(link) },
		func() error { return netlink.LinkSetMTU(link, DefaultMTU) },
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return configureRoutesAgain(link)
}

// configureRoutesAgain restores what setting the device down took away, and shows that the door still carries.
func configureRoutesAgain(link netlink.Link) error {
	netlink.NeighSet(&netlink.Neigh{LinkIndex: link.Attrs().Index, State: netlink.NUD_PERMANENT, IP: gateway4.AsSlice(), HardwareAddr: gatewayMAC})
	netlink.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: &net.IPNet{IP: gateway4.AsSlice(), Mask: net.CIDRMask(32, 32)}, Scope: netlink.SCOPE_LINK})
	netlink.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: gateway4.AsSlice()})
	c, err := net.DialTimeout("tcp", "203.0.113.7:80", patience)
	if err != nil {
		return fmt.Errorf("after hostile frames: %w", err)
	}
	defer c.Close()
	c.Write([]byte("hello"))
	_, err = io.ReadFull(c, make([]byte, 5))
	if err != nil {
		return err
	}
	return netlink.LinkDel(link) // and the door survives that too: Serve ends
}

func TestTAPHostile(t *testing.T) {
	tapSandbox(t, Config{}, toHost(hostListener(t, echo), nil), "hostile")
}

func htons(v uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], v)
	return binary.NativeEndian.Uint16(b[:])
}

// tapIperf3 runs the iperf3 client with the arguments given.
func tapIperf3() error {
	cmd := exec.Command("iperf3", os.Args[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd.Run()
}

const (
	holdFlows          = 1000
	holdBefore, holdAt = 81, 82 // ports that the program dials before it opens its flows, and while it holds them
)

// tapHold opens connections, uses each of them once, and holds them all while it dials another port.
func tapHold() error {
	net.Dial("tcp", fmt.Sprintf("203.0.113.7:%d", holdBefore))
	for range holdFlows {
		c, err := net.Dial("tcp", "203.0.113.7:80")
		if err != nil {
			return err
		}
		defer c.Close()
		c.Write([]byte("x"))
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			return err
		}
	}
	net.Dial("tcp", fmt.Sprintf("203.0.113.7:%d", holdAt))
	return nil
}

// idleFlowBytes is what an idle flow may cost the process: endpoint, two goroutines, relay, host socket.
const idleFlowBytes = 30_000

// An idle flow costs two goroutines and no buffers.
func TestTAPIdleFlowCost(t *testing.T) {
	if testing.Short() {
		t.Skip("opens a thousand connections")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() { // a server that costs next to nothing
		var conns []net.Conn
		for c, err := l.Accept(); err == nil; c, err = l.Accept() {
			c.Write([]byte("y"))
			conns = append(conns, c)
		}
		for _, c := range conns {
			c.Close()
		}
	}()
	var before, at runtime.MemStats
	var goroutines int
	relayed := toHost(l, nil)
	tapSandbox(t, Config{}, handlerOf(func(ctx context.Context, a flow.Arrival) {
		switch a.Dst.Port() {
		case holdBefore:
			runtime.GC()
			runtime.ReadMemStats(&before)
			goroutines = runtime.NumGoroutine()
		case holdAt:
			runtime.GC()
			runtime.ReadMemStats(&at)
			goroutines = runtime.NumGoroutine() - goroutines
		default:
			relayed.Handle(ctx, a)
		}
	}), "hold")
	perFlow := (int64(at.HeapInuse+at.StackInuse) - int64(before.HeapInuse+before.StackInuse)) / holdFlows
	t.Logf("%d bytes (%d of stack) and %.2f goroutines per idle flow", perFlow, (at.StackInuse-before.StackInuse)/holdFlows, float64(goroutines)/holdFlows)
	if perFlow > idleFlowBytes {
		t.Errorf("%d bytes per idle flow, want at most %d", perFlow, idleFlowBytes)
	}
	if goroutines > 2*holdFlows+10 {
		t.Errorf("%d goroutines for %d flows", goroutines, holdFlows)
	}
}
