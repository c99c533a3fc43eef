package attribution

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
	"golang.org/x/time/rate"
)

const roleVariable = "WEIR_ATTRIBUTION_TEST_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(roleVariable) {
	case "init":
		sandboxInit()
	case "holder":
		sandboxHolder()
	default:
		m.Run()
	}
}

// opened is a flow that the process inside the sandbox has made: what the test asks about.
type opened struct {
	Name, Network string
	Src, Dst      netip.AddrPort
	PID           int // 0: nobody holds it
}

// sandboxInit is PID 1 of the sandbox: it passes the diagnostics socket out and starts the process that opens flows.
func sandboxInit() {
	lo := must(unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0))
	ifr := must(unix.NewIfreq("lo"))
	ifr.SetUint16(unix.IFF_UP)
	check(unix.IoctlIfreq(lo, unix.SIOCSIFFLAGS, ifr))
	diag := must(unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG))
	check(unix.Sendmsg(3, []byte{0}, unix.UnixRights(diag), nil, 0))

	cmd := exec.Command("/proc/self/exe", "holder", "--token", "hunter2")
	cmd.Env = []string{roleVariable + "=holder"}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	check(cmd.Run())
}

// sandboxHolder opens one flow of each kind, prints them, and holds them until its standard input ends.
func sandboxHolder() {
	var flows []opened
	add := func(name, network string, src, dst net.Addr) {
		flows = append(flows, opened{name, network, netip.MustParseAddrPort(src.String()), netip.MustParseAddrPort(dst.String()), os.Getpid()})
	}
	for _, host := range []string{"127.0.0.1", "::1"} {
		tcp := must(net.Listen("tcp", net.JoinHostPort(host, "0")))
		conn := must(net.Dial("tcp", tcp.Addr().String()))
		add("tcp "+host, "tcp", conn.LocalAddr(), conn.RemoteAddr())
		peer := must(tcp.Accept())
		add("tcp, accepted "+host, "tcp", peer.LocalAddr(), peer.RemoteAddr())

		udp := must(net.ListenPacket("udp", net.JoinHostPort(host, "0")))
		conn = must(net.Dial("udp", udp.LocalAddr().String()))
		add("udp, connected "+host, "udp", conn.LocalAddr(), conn.RemoteAddr())
		add("udp, bound "+host, "udp", udp.LocalAddr(), conn.LocalAddr())

		gone := must(net.Dial("tcp", tcp.Addr().String()))
		add("tcp, closed "+host, "tcp", gone.LocalAddr(), gone.RemoteAddr())
		flows[len(flows)-1].PID = 0
		check(gone.(*net.TCPConn).SetLinger(0))
		check(gone.Close())
	}
	wild := must(net.ListenUDP("udp", nil)) // dual-stack
	port := wild.LocalAddr().(*net.UDPAddr).Port
	for _, host := range []string{"127.0.0.1", "::1"} {
		src := &net.UDPAddr{IP: net.ParseIP(host), Port: port}
		add("udp, wildcard "+host, "udp", src, &net.UDPAddr{IP: net.ParseIP(host), Port: 53})
	}
	wild4 := must(net.ListenUDP("udp4", nil))
	add("udp4, wildcard", "udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: wild4.LocalAddr().(*net.UDPAddr).Port},
		&net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 53})
	check(json.NewEncoder(os.Stdout).Encode(flows))
	_, err := io.Copy(io.Discard, os.Stdin)
	check(err)
}

// sandboxed is a running sandbox with open flows.
type sandboxed struct {
	pid   int
	diag  *os.File
	flows []opened
}

func startSandbox(t *testing.T) *sandboxed {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "ours"), os.NewFile(uintptr(pair[1]), "theirs")
	defer ours.Close()
	defer theirs.Close()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{roleVariable + "=init"}
	cmd.Stderr = os.Stderr
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET | syscall.CLONE_NEWPID,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	stdin, _ := cmd.StdinPipe()
	stdout, _ := cmd.StdoutPipe()
	if err := cmd.Start(); err != nil {
		t.Skipf("make namespaces: %v", err)
	}
	t.Cleanup(func() {
		stdin.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("sandbox: %v", err)
		}
	})
	s := &sandboxed{pid: cmd.Process.Pid}
	line, err := bufio.NewReader(stdout).ReadBytes('\n')
	if err != nil {
		t.Fatalf("read flows: %v", err)
	}
	if err := json.Unmarshal(line, &s.flows); err != nil {
		t.Fatal(err)
	}
	oob := make([]byte, 64)
	_, n, _, _, err := unix.Recvmsg(int(ours.Fd()), make([]byte, 1), oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	fds, err := unix.ParseUnixRights(&must(unix.ParseSocketControlMessage(oob[:n]))[0])
	if err != nil {
		t.Fatal(err)
	}
	s.diag = os.NewFile(uintptr(fds[0]), "diag")
	t.Cleanup(func() { s.diag.Close() })
	return s
}

// newFinder is New, and Close at the end.
func newFinder(t *testing.T, initPID int, diag *os.File) *Finder {
	f := New(initPID, diag)
	t.Cleanup(func() { f.Close() })
	return f
}

func TestFind(t *testing.T) {
	s := startSandbox(t)
	exe := must(os.Readlink("/proc/self/exe"))
	for name, diag := range map[string]*os.File{"diag": s.diag, "tables": nil} {
		f := newFinder(t, s.pid, diag)
		for round := range 2 { // the second one is answered from hints
			for _, flow := range s.flows {
				t.Run(fmt.Sprint(name, round, " ", flow.Name), func(t *testing.T) {
					p, ok := f.Find(flow.Network, flow.Src, flow.Dst)
					if flow.PID == 0 {
						if ok {
							t.Errorf("a closed socket belongs to %+v", p)
						}
						return
					}
					if !ok || p.PID != flow.PID || p.Exe != exe || !slices.Equal(p.Args, []string{"/proc/self/exe", "holder", "--token", "hunter2"}) {
						t.Errorf("got %+v, %v; want process %d", p, ok, flow.PID)
					}
				})
			}
		}
		for _, flow := range s.flows[:1] {
			if p, ok := f.Find("icmp", flow.Src, flow.Dst); ok {
				t.Errorf("icmp: %+v", p)
			}
			if p, ok := f.Find("tcp", netip.AddrPort{}, flow.Dst); ok {
				t.Errorf("no source: %+v", p)
			}
			if p, ok := f.Find("udp", netip.AddrPortFrom(flow.Src.Addr(), 1), flow.Dst); ok {
				t.Errorf("port that nobody has: %+v", p)
			}
		}
	}
}

// The kernel knows the sockets itself: the tables are not what answers when a diagnostics socket is there.
func TestDiagnose(t *testing.T) {
	s := startSandbox(t)
	for i, flow := range s.flows {
		inode, err := diagnose(int(s.diag.Fd()), uint32(i), tuple{flow.Network, flow.Src, flow.Dst})
		if flow.PID == 0 {
			if err == nil {
				t.Errorf("%s: inode %d", flow.Name, inode)
			}
			continue
		}
		table, ok := readTables(s.pid, tuple{flow.Network, flow.Src, flow.Dst})
		if err != nil || inode != table || !ok {
			t.Errorf("%s: inode %d, %v; the table says %d", flow.Name, inode, err, table)
		}
	}
}

func TestMembers(t *testing.T) {
	s := startSandbox(t)
	a, b := members(s.pid), sameNamespace(s.pid)
	slices.Sort(a)
	slices.Sort(b)
	if len(a) != 2 || !slices.Equal(a, b) {
		t.Errorf("by children %v, by namespace %v; want init and one more", a, b)
	}
}

func TestLookupsAreBounded(t *testing.T) {
	f := newFinder(t, 1<<30, nil)
	f.limit = rate.NewLimiter(0, 5)
	for range 12 {
		f.Find("tcp", netip.MustParseAddrPort("10.77.0.2:1"), netip.MustParseAddrPort("192.0.2.1:443"))
	}
	if c := f.Counters(); c["limited"] != 7 || c["no-socket"] != 5 {
		t.Errorf("%v", c)
	}
}

func TestHintsAreBounded(t *testing.T) {
	conn := must(net.ListenPacket("udp", "127.0.0.1:0"))
	defer conn.Close()
	src := conn.LocalAddr().(*net.UDPAddr).AddrPort()
	f := newFinder(t, os.Getpid(), nil)
	for i := range uint32(maxHints) {
		f.hints[^i] = holder{process: &kept{dir: -1, fds: -1, cmdline: -1}}
	}
	self := must(openProcess(os.Getpid()))
	for range maxRecent {
		f.recent = append(f.recent, &kept{pid: 1 << 29, dir: -1, fds: must(unix.Dup(self.dir)), cmdline: -1, last: -1})
	}
	self.close()
	p, ok := f.Find("udp", src, netip.MustParseAddrPort("127.0.0.1:53"))
	if !ok || p.PID != os.Getpid() || len(f.hints) != 1 || len(f.recent) != maxRecent || f.recent[0].pid != os.Getpid() {
		t.Errorf("%+v %v, %d hints, recent %v", p, ok, len(f.hints), f.recent)
	}
	conn.Close()
	inode := func() uint32 {
		for n := range f.hints {
			return n
		}
		return 0
	}()
	if p, ok := f.owner(inode); ok || len(f.hints) != 0 {
		t.Errorf("a closed socket belongs to %+v", p)
	}
}

func TestLinksAreBounded(t *testing.T) {
	links := 2
	k := must(openProcess(os.Getpid()))
	defer k.close()
	if fd, ok := k.search(^uint32(0), &links); ok || links != 0 {
		t.Errorf("%q, %d links left", fd, links)
	}
}

// A process with thousands of descriptors cannot make every lookup walk through them.
func TestLinksPerSecondAreBounded(t *testing.T) {
	f := newFinder(t, os.Getpid(), nil)
	f.links = rate.NewLimiter(0, 3)
	if p, ok := f.owner(^uint32(0)); ok {
		t.Errorf("a socket that is not there belongs to %+v", p)
	}
	if left := f.links.Tokens(); left != 0 {
		t.Errorf("%v links left", left)
	}
}

// The next socket of a process is found behind its last one.
func TestGuess(t *testing.T) {
	f := newFinder(t, os.Getpid(), nil)
	var conns []net.PacketConn
	for i := range 5 {
		conn := must(net.ListenPacket("udp", "127.0.0.1:0"))
		defer conn.Close()
		conns = append(conns, conn)
		if i == 0 {
			if _, ok := f.Find("udp", conn.LocalAddr().(*net.UDPAddr).AddrPort(), netip.MustParseAddrPort("127.0.0.1:53")); !ok {
				t.Fatal("the first socket is not found")
			}
		}
	}
	inode, ok := readTables(os.Getpid(), tuple{network: "udp", local: conns[4].LocalAddr().(*net.UDPAddr).AddrPort(), remote: netip.MustParseAddrPort("127.0.0.1:53")})
	links := 100
	k := f.recent[0]
	if fd, found := k.guess(inode, &links); !ok || !found || !k.holds(fd, inode) || links < 100-2*guesses {
		t.Errorf("%q, %v, %d links left", fd, found, links)
	}
	k.last = -1
	if fd, found := k.guess(inode, &links); found {
		t.Errorf("in a process never seen: %q", fd)
	}
}

// What the diagnostics do not know is not looked for in the tables, not even the first time.
func TestClosedSocketsCostOneQuestion(t *testing.T) {
	s := startSandbox(t)
	f := newFinder(t, s.pid, s.diag)
	for _, network := range []string{"tcp", "udp"} {
		if !knows(int(s.diag.Fd()), 7, network) {
			t.Errorf("the kernel has no diagnostics for %s", network)
		}
		for range 3 {
			f.Find(network, netip.MustParseAddrPort("127.0.0.1:1"), netip.MustParseAddrPort("127.0.0.1:2"))
		}
	}
	other := must(unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE))
	defer unix.Close(other)
	if knows(other, 7, "tcp") {
		t.Error("a socket that is not for diagnostics has some")
	}
	if got := f.Counters(); got["tables"] != 0 || got["no-socket"] != 6 {
		t.Errorf("of sockets that are not there: %v", got)
	}
	f.initPID = os.Getpid() // whose tables do have the socket
	conn := must(net.ListenPacket("udp", "127.0.0.1:0"))
	defer conn.Close()
	if p, ok := f.Find("udp", conn.LocalAddr().(*net.UDPAddr).AddrPort(), netip.MustParseAddrPort("127.0.0.1:53")); ok {
		t.Errorf("the tables were read: %+v", p)
	}
}

func TestSearchTable(t *testing.T) {
	const header = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
	row := func(local, remote string, inode int) string {
		return fmt.Sprintf("   0: %s %s 01 00000000:00000000 00:00000000 00000000  1000        0 %d 1 0000000000000000 20 4 0 10 -1\n", local, remote, inode)
	}
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		t.Skip("the rows are those of a little-endian machine")
	}
	flow := tuple{"udp", netip.MustParseAddrPort("10.77.0.2:4660"), netip.MustParseAddrPort("192.0.2.1:53")}
	const me, any4, any6, mapped = "02004D0A:1234", "00000000:1234", "00000000000000000000000000000000:1234", "0000000000000000FFFF000002004D0A:1234"
	const peer, none4, none6 = "010200C0:0035", "00000000:0000", "00000000000000000000000000000000:0000"
	tests := []struct {
		name, table string
		inode       uint32
	}{
		{"exact", row(me, peer, 7), 7},
		{"exact beats bound beats wildcard", row(any4, none4, 1) + row(me, none4, 2) + row(me, peer, 3) + row(any4, none4, 4), 3},
		{"bound beats wildcard", row(any4, none4, 1) + row(me, none4, 2), 2},
		{"wildcard of IPv6", row(any6, none6, 5), 5},
		{"mapped", row(mapped, none6, 6), 6},
		{"connected to another", row(me, "020200C0:0035", 7), 0},
		{"another port", row("02004D0A:1235", peer, 7), 0},
		{"another address", row("03004D0A:1234", none4, 7), 0},
		{"no inode", row(me, peer, 0), 0},
		{"rubbish", "x\n\n" + strings.Repeat("zz ", 20) + "\n" + row("0200:1234", peer, 7) + row("02004D0A:12345", peer, 7) + row("02004D0A", peer, 7), 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if _, got := searchTable(strings.NewReader(header+test.table), flow); got != test.inode {
				t.Errorf("inode %d, want %d", got, test.inode)
			}
		})
	}
}

func FuzzDiagAnswer(f *testing.F) {
	f.Add(make([]byte, diagMessageLen))
	f.Add(append([]byte{36, 0, 0, 0, 2, 0}, make([]byte, 30)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) < netlinkHeader {
			return
		}
		if inode, err := diagAnswer(b, tuple{}); err == nil && inode == 0 {
			t.Error("inode 0 without an error")
		}
	})
}

func must[T any](v T, err error) T {
	check(err)
	return v
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

// A process that has ended gives way, and one that executes another program is described anew.
func TestProcessesEndAndChange(t *testing.T) {
	f := newFinder(t, os.Getpid(), nil)
	conn := must(net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}))
	file := must(conn.File())
	defer file.Close()
	src := conn.LocalAddr().(*net.UDPAddr).AddrPort()
	conn.Close()
	held := func() (Process, bool) { return f.Find("udp", src, netip.MustParseAddrPort("127.0.0.1:53")) }

	cmd := exec.Command("sh", "-c", "echo; read line; exec sleep 1000")
	cmd.ExtraFiles = []*os.File{file}
	stdin, stdout := must(cmd.StdinPipe()), must(cmd.StdoutPipe())
	check(cmd.Start())
	file.Close()
	must(stdout.Read(make([]byte, 1)))
	p, ok := held()
	if !ok || p.PID != cmd.Process.Pid || len(p.Args) != 3 || p.Args[2] != cmd.Args[2] {
		t.Errorf("before: %+v, %v", p, ok)
	}
	must(stdin.Write([]byte("\n")))
	f.limit = rate.NewLimiter(rate.Inf, 0)
	for p, ok = held(); ok && !slices.Equal(p.Args, []string{"sleep", "1000"}); p, ok = held() {
	}
	if !ok || p.PID != cmd.Process.Pid || !strings.Contains(p.Exe, "/") {
		t.Errorf("after exec: %+v, %v", p, ok)
	}
	check(cmd.Process.Kill())
	cmd.Wait()
	if p, ok := held(); ok {
		t.Errorf("after its end: %+v", p)
	}
	gone := f.recent[0]
	if _, ok := f.owner(^uint32(0)); ok || len(f.hints) != 0 || slices.Contains(f.recent, gone) {
		t.Errorf("a process that has ended is kept: %d hints, %v", len(f.hints), f.recent)
	}
}
