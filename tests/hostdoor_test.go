//go:build linux

package tests

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// The door on the host (weir tproxy up): before containers that somebody else has made.

// TestHostDoor: what a container behind the door can do, and what the book has of it.
func TestHostDoor(t *testing.T) {
	h := newHostNet(t)
	one, two := h.box(2), h.box(3)
	u := h.up("--bridge", "br0", "--allow", "shop.example", "--allow", "tools.example:7,9", "--allow", "six.example:7", "--allow", two.addr4+":5000")
	serveEcho(t, two, 5000)
	h.do("nft", "table inet seen { chain marked { type filter hook output priority 0; meta mark and 0xff000000 == 0x77000000 tcp dport 80 counter; }; }")
	holdsOnly(t, u)
	for _, c := range []struct{ name, want, probe string }{
		{"http by name", "200 OK\nhello from shop.example", "get http://shop.example/"},
		{"tls by name", "connected", "tls shop.example:443 shop.example"},
		{"tcp", "echo", "tcp tools.example:7 echo"},
		{"udp", "echo", "udp tools.example:7 echo"},
		{"tcp over ipv6", "echo", "tcp six.example:7 echo"},
		{"udp over ipv6", "echo", "udp six.example:7 echo"},
		{"dns", "NOERROR truncated: false\nshop.example.\t60\tIN\tA\t198.51.100.10", "dns 198.51.100.53:53 shop.example A"},
		{"dns over tcp", "NOERROR truncated: false\nshop.example.\t60\tIN\tA\t198.51.100.10", "dns+tcp 198.51.100.53:53 shop.example A"},
		{"dns of a name that is not allowed", "NXDOMAIN", "dns 198.51.100.53:53 evil.example A"},
		{"a closed port is refused", "error: ECONNREFUSED", "tcp tools.example:9 x"},
		{"an address that is not allowed", "error: ECONNREFUSED", "tcp 203.0.113.66:81 x"},
		{"udp that is not allowed", "error: ECONNREFUSED", "udp 203.0.113.66:80 x"},
		{"another resolver", "error", "dns 198.51.100.20:53 shop.example A"},
		{"another container, where a rule allows it", "echo", "tcp " + two.addr4 + ":5000 echo"},
		{"another container, where none does", "error: ECONNREFUSED", "tcp " + two.addr4 + ":5001 echo"},
		{"the host's own address", "error: ECONNREFUSED", "tcp " + h.gateway4() + ":22 x"},
		{"the metadata address", "error: ECONNREFUSED", "tcp 169.254.169.254:80 x"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := one.probe(strings.Fields(c.probe)...); !strings.HasPrefix(got, c.want) {
				t.Errorf("%s: %q, want %q", c.probe, got, c.want)
			}
		})
	}
	u.await("the http flow", func(e hostEvent) bool {
		return e.Event == "network-connect" && e.App == one.app() && e.Details.Hostname == "shop.example" && e.Details.Verdict == "allow" &&
			e.Details.Door == "tproxy" && e.Details.Src_IP.String() == one.addr4 && e.Details.Dest_Port == 80
	})
	u.await("the denied flow", func(e hostEvent) bool {
		return e.Event == "network-connect" && e.App == one.app() && e.Details.Dest_IP == evil && e.Details.Verdict == "deny" && e.Details.Reason == "default"
	})
	u.await("the guarded flow", func(e hostEvent) bool {
		return e.Details.Dest_IP.String() == h.gateway4() && e.Details.Dest_Port == 22 && e.Details.Reason == "guard"
	})
	u.await("the question", func(e hostEvent) bool {
		return e.Event == "dns-query" && e.Details.Hostname == "shop.example" && e.Details.Server == "198.51.100.53:53"
	})
	if seen := h.do("nft", "list", "table", "inet", "seen"); strings.Contains(seen, "packets 0") {
		t.Errorf("weir's own connections are not marked: %s", seen)
	}
	if out, err := out(one.ns, "ping", "-c1", "-W1", "198.51.100.10"); err == nil {
		t.Errorf("ping was carried: %s", out)
	}
	u.awaitDropped(one, "drop-protocol")
	u.end(syscall.SIGTERM)
	if status := u.cmd.ProcessState.ExitCode(); status != 0 {
		t.Errorf("weir ended with %d: %s", status, u.stderr)
	}
	u.await("the end", func(e hostEvent) bool { return e.Event == "sandbox-exit" && e.App == one.app() })
}

// holdsOnly looks at the capabilities of weir's processes.
func holdsOnly(t *testing.T, u *upDoor) {
	t.Helper()
	dataPath, launcher := uint64(1<<unix.CAP_NET_RAW|1<<unix.CAP_NET_BIND_SERVICE), uint64(0)
	for _, c := range []int{unix.CAP_NET_ADMIN, unix.CAP_SYS_ADMIN, unix.CAP_SYS_PTRACE, unix.CAP_SYS_CHROOT, unix.CAP_DAC_READ_SEARCH, unix.CAP_SETPCAP} {
		launcher |= 1 << c
	}
	may := map[int]uint64{u.cmd.Process.Pid: launcher | dataPath}
	for _, p := range descendants(t, u.cmd.Process.Pid) {
		if p.name == "weir-datapath" {
			may[p.pid] = dataPath
		}
	}
	if len(may) != 3 {
		t.Errorf("%d processes, want a launcher and two data paths", len(may))
	}
	for pid, may := range may {
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
		for _, task := range tasks {
			status, err := os.ReadFile(task)
			if err != nil {
				continue // the thread has ended
			}
			for line := range strings.Lines(string(status)) {
				var set uint64
				if _, err := fmt.Sscanf(line, "CapPrm:\t%x", &set); err == nil && set&^may != 0 {
					t.Errorf("%s has capabilities %x, may have %x", task, set, may)
				}
			}
		}
	}
}

// serveEcho runs a server in the box.
func serveEcho(t *testing.T, b *box, port int) {
	t.Helper()
	ln, err := listenIn(b, port)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
}

// TestHostDoorComesAndGoes: whatever ends weir, and whatever keeps it from coming up, the host's network is as it was.
func TestHostDoorComesAndGoes(t *testing.T) {
	const outside = "198.51.100.20:7"
	h := newHostNet(t)
	one := h.box(2)
	if !one.open("tcp", outside, "x") {
		t.Fatal("without weir the container reaches nobody")
	}
	h.do("nft", "add table ip others { chain c { type filter hook forward priority 0; policy accept; } ; }")
	before := h.snapshot()
	up := []string{"--bridge", "br0", "--allow", "198.51.100.20:7"}
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		u := h.up(up...)
		if !one.open("tcp", outside, "x") || one.open("tcp", "198.51.100.10:80", "x") {
			t.Error("the door is not in the way")
		}
		u.end(signal)
		h.unchanged(before)
	}

	u := h.up(up...)
	u.end(syscall.SIGKILL)
	for _, what := range [][]string{{"tcp", outside, "x"}, {"udp", outside, "x"}, {"dns", "198.51.100.53:53", "shop.example", "A"}, {"tcp", "[2001:db8:1::20]:7", "x"}} {
		if one.open(what...) {
			t.Errorf("%v passes though weir was killed", what)
		}
	}
	u = h.up(up...) // takes over
	if !one.open("tcp", outside, "x") {
		t.Error("the door that took over carries nothing")
	}
	u.end(syscall.SIGTERM)
	h.unchanged(before)

	u = h.up(up...)
	u.end(syscall.SIGKILL)
	if said, _ := h.fails("doctor", "host-door"); !strings.Contains(said, "a weir tproxy up on br0 was killed") || !strings.Contains(said, "fix: sudo weir tproxy up --bridge br0") {
		t.Errorf("doctor says %q", said)
	}
	down := h.down()
	for _, want := range []string{"nftables table ip weir-br0", "nftables table ip6 weir-br0", "nftables table bridge weir-br0", "ipv4 rule", "ipv6 rule", "ipv4 route", "ipv6 route"} {
		if !strings.Contains(down, want) {
			t.Errorf("down does not speak of %q:\n%s", want, down)
		}
	}
	h.unchanged(before)
	if again := h.down(); !strings.Contains(again, "nothing to remove") {
		t.Errorf("the second down says %q", again)
	}
	if got := h.down("--bridge", "br0", "--json"); strings.TrimSpace(got) != `[{"link":"br0","ended":0,"removed":[]}]` {
		t.Errorf("down --json says %s", got)
	}
	if !one.open("tcp", outside, "x") {
		t.Error("the way is not open after down")
	}

	u = h.up(up...)
	if down := h.down("--bridge", "br0"); !strings.Contains(down, fmt.Sprintf("ended process %d", u.cmd.Process.Pid)) {
		t.Errorf("down of a running one says %q", down)
	}
	<-u.done
	h.unchanged(before)
}

// down runs weir tproxy down.
func (h *hostNet) down(args ...string) string {
	h.t.Helper()
	s, err := h.fails(append([]string{"tproxy", "down"}, args...)...)
	if err != nil {
		h.t.Fatalf("weir tproxy down: %v\n%s", err, s)
	}
	return s
}

// fails runs weir to its end and returns what it says.
func (h *hostNet) fails(args ...string) (string, error) {
	cmd := h.weir(args...)
	var b lockedBuffer
	cmd.Stdout, cmd.Stderr = &b, &b
	err := h.in(cmd.Start)
	if err == nil {
		err = cmd.Wait()
	}
	return b.String(), err
}

// TestHostDoorErrors: one clear error each, and nothing is changed.
func TestHostDoorErrors(t *testing.T) {
	h := newHostNet(t)
	one := h.box(2)
	alone := newNamespace(t)
	broken := filepath.Join(t.TempDir(), "weir.yaml")
	if err := os.WriteFile(broken, []byte("version: 1\napps:\n  web:\n    alow: [a.example]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	before := h.snapshot()
	for _, c := range []struct {
		name string
		args []string
		want []string
	}{
		{"nothing named", nil, []string{"want one of --bridge NAME and --netns PATH"}},
		{"both named", []string{"--bridge", "br0", "--netns", "1"}, []string{"want one of --bridge NAME and --netns PATH"}},
		{"no such bridge", []string{"--bridge", "br1"}, []string{`find "br1": no such bridge`, "fix: name one of these: br0"}},
		{"no bridge", []string{"--bridge", one.port}, []string{"it is a veth", "no such bridge"}},
		{"no such namespace", []string{"--netns", "nobody"}, []string{"there is no /run/netns/nobody"}},
		{"no such process", []string{"--netns", "4194303"}, []string{"there is no /proc/4194303/ns/net"}},
		{"a namespace without a link", []string{"--netns", fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), alone.Fd())}, []string{"not one link to this host: it has none"}},
		{"the host's own namespace", []string{"--netns", "self/../self"}, []string{"there is no"}},
		{"no namespace", []string{"--netns", "/proc/self/status"}, []string{"/proc/self/status is no network namespace"}},
		{"a mode that there is not", []string{"--bridge", "br0", "--mode", "ask"}, []string{`--mode "ask": want audit or enforce`}},
		{"a rule that is none", []string{"--bridge", "br0", "--allow", "*"}, []string{"*"}},
		{"a broken policy", []string{"--bridge", "br0", "-f", broken}, []string{`unknown key "alow"`, "write allow"}},
		{"a policy that is not there", []string{"--bridge", "br0", "-f", "/nowhere/weir.yaml"}, []string{"/nowhere/weir.yaml"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			said, err := h.fails(append([]string{"tproxy", "up"}, c.args...)...)
			if err == nil {
				t.Fatal("it came up")
			}
			for _, want := range c.want {
				if !strings.Contains(said, want) {
					t.Errorf("it says %q, not %q", said, want)
				}
			}
			if n := strings.Count(said, "weir: "); n != 1 {
				t.Errorf("%d errors, want one:\n%s", n, said)
			}
			h.unchanged(before)
		})
	}

	t.Run("without the capability", func(t *testing.T) {
		cmd := h.weir("tproxy", "up", "--bridge", "br0")
		var b lockedBuffer
		cmd.Stdout, cmd.Stderr = &b, &b
		if err := h.in(func() error { return startWithout(cmd) }); err != nil {
			t.Fatal(err)
		}
		if cmd.Wait() == nil || !strings.Contains(b.String(), "CAP_NET_ADMIN") || !strings.Contains(b.String(), "fix: sudo weir tproxy") {
			t.Errorf("it says %q", b.String())
		}
		h.unchanged(before)
	})
	t.Run("a firewall behind the door", func(t *testing.T) {
		h.do("nft", "table inet fw { chain input { type filter hook input priority 0; policy drop; ct state established,related accept; meta l4proto ipv6-icmp accept; }; }")
		defer h.unchanged(before)
		defer h.do("nft", "delete", "table", "inet", "fw")
		u := h.up("--bridge", "br0", "--allow", "198.51.100.20:7")
		said := u.stderr.String()
		_, fix, found := strings.Cut(said, "fix: nft ")
		if !strings.Contains(said, "nftables chain inet fw input drops what it does not know") || !found || one.open("tcp", "198.51.100.20:7", "x") {
			t.Fatalf("weir says %q", said)
		}
		rule, _, _ := strings.Cut(fix, "\n")
		h.do("nft", strings.Fields(rule)...)
		if !one.open("tcp", "198.51.100.20:7", "x") {
			t.Errorf("what weir says does not help: %q", rule)
		}
		u.end(syscall.SIGTERM)
	})
	t.Run("numbers that others have", func(t *testing.T) {
		h.ip("rule add priority 77 fwmark 0x75000000/0xff000000 lookup 1077")
		defer h.unchanged(before)
		defer h.ip("rule del priority 77")
		u := h.up("--bridge", "br0", "--allow", "198.51.100.20:7")
		if !strings.Contains(u.status, `"route_table":1078`) || !strings.Contains(u.status, `"mark":"0x79000000/0xff000000"`) || !one.open("tcp", "198.51.100.20:7", "x") {
			t.Errorf("weir says %s", u.status)
		}
		u.end(syscall.SIGTERM)
	})
	t.Run("two on one bridge", func(t *testing.T) {
		u := h.up("--bridge", "br0")
		during := h.snapshot()
		said, err := h.fails("tproxy", "up", "--bridge", "br0")
		if want := fmt.Sprintf("weir tproxy is up on br0 already (process %d)", u.cmd.Process.Pid); err == nil || !strings.Contains(said, want) {
			t.Errorf("the second says %q, want %q", said, want)
		}
		h.unchanged(during)
		u.end(syscall.SIGTERM)
		h.unchanged(before)
	})
}

// TestHostDoorFollows: containers come and go, and rules are taken away by others, while weir is up.
func TestHostDoorFollows(t *testing.T) {
	const outside = "198.51.100.20:7"
	h := newHostNet(t)
	one := h.box(2)
	before := h.snapshot()
	u := h.up("--bridge", "br0", "--allow", outside)

	later := h.box(3)
	u.await("the one that came later", func(e hostEvent) bool { return e.Event == "sandbox-start" && e.App == later.app() })
	if !soon(func() bool { return later.open("tcp", outside, "x") }) || later.open("tcp", "198.51.100.10:80", "x") {
		t.Error("the container that came later is not judged")
	}
	later.cmd.Process.Kill()
	h.ip("link del %s", later.port)
	u.await("its end", func(e hostEvent) bool { return e.Event == "sandbox-exit" && e.App == later.app() })

	h.do("nft", "flush", "ruleset")
	h.ip("rule del priority 77")
	if !soon(func() bool {
		return strings.Contains(u.stderr.String(), "somebody has removed or changed rules of weir's: they are back")
	}) {
		t.Error("weir does not see that its rules are gone")
	}
	if !soon(func() bool { return one.open("tcp", outside, "x") }) || one.open("tcp", "198.51.100.10:80", "x") {
		t.Error("the rules that are back do not judge")
	}

	u.end(syscall.SIGTERM)
	h.unchanged(before)
}

// TestHostDoorOfOne: --netns is about one container; the others on its bridge are as they were.
func TestHostDoorOfOne(t *testing.T) {
	const outside = "198.51.100.20:7"
	for _, c := range []struct {
		name  string
		route bool // the link ends at no bridge
	}{{"on a bridge", false}, {"on a link of its own", true}} {
		t.Run(c.name, func(t *testing.T) {
			h := newHostNet(t)
			var one *box
			if c.route {
				one = h.unattached(2)
				h.ip("route add %s/32 dev %s", one.addr4, one.port)
				h.ip("-6 route add %s/128 dev %s", one.addr6, one.port)
				h.sysctl("net/ipv4/conf/"+one.port+"/proxy_arp", "1")
			} else {
				one = h.box(2)
			}
			two := h.box(3)
			before := h.snapshot()
			u := h.up("--netns", fmt.Sprint(one.cmd.Process.Pid), "--allow", outside, "--allow", "tools.example:7")
			for _, what := range []string{"tcp " + outside + " x", "udp " + outside + " x", "tcp tools.example:7 x"} {
				if !one.open(strings.Fields(what)...) {
					t.Errorf("the container behind the door cannot: %s", what)
				}
			}
			if one.open("tcp", "198.51.100.10:80", "x") {
				t.Error("the door is not in the way")
			}
			if !two.open("tcp", "198.51.100.20:9999", "x") && !two.open("tcp", outside, "x") {
				t.Error("the door is in the way of another container")
			}
			u.end(syscall.SIGKILL)
			if one.open("tcp", outside, "x") {
				t.Error("there is a way out after weir was killed")
			}
			if !two.open("tcp", outside, "x") {
				t.Error("another container has no way out after weir was killed")
			}
			h.down()
			h.unchanged(before)
			if !c.route && !one.open("tcp", outside, "x") {
				t.Error("the way is not open after down")
			}
		})
	}
}
