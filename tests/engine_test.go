//go:build linux

package tests

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// Profile engine: root inside, container engines, and what root may do to the network.

// engineLack says what of what the profile needs this host has not.
func engineLack(programs ...string) (lack string) {
	if os.Getenv("WEIR_TEST_IDS") == "" {
		lack = "newuidmap, or subordinate ids for this user in /etc/subuid and /etc/subgid"
	}
	for _, p := range append(programs, "ip") {
		if _, err := exec.LookPath(p); err != nil {
			lack = p
		}
	}
	if ok, _ := condition("tun", ""); !ok {
		lack = "/dev/net/tun"
	}
	return lack
}

// needsEngine skips a test where the host has not what the profile needs. In CI everything is there.
func needsEngine(t *testing.T, programs ...string) {
	t.Helper()
	switch lack := engineLack(programs...); {
	case lack == "":
	case os.Getenv("CI") != "":
		t.Fatalf("this host lacks %s", lack)
	default:
		t.Skipf("this host lacks %s", lack)
	}
}

// engineRun is one finished run of a shell script as root inside.
type engineRun struct {
	output string
	status int
	events string
	sent   []string // what left the host meanwhile
}

// runEngine runs the script with profile engine; flags come before it. /run/probe and /run/spoof are programs of the
// tests.
func runEngine(t *testing.T, script string, flags ...string) engineRun {
	t.Helper()
	dir := t.TempDir()
	events := filepath.Join(dir, "events.jsonl")
	args := append([]string{"run", "-q", "--profile", "engine", "--name", "engine", "--events", events,
		"--share=" + filepath.Join(binDir(), "probe") + ":/run/probe:ro"}, flags...)
	cmd := exec.Command(filepath.Join(binDir(), "weir"), append(args, "--", "sh", "-c", script)...)
	cmd.Env = engineState(t)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	tap := tapUplink(t)
	cmd.Run()
	text, err := os.ReadFile(events)
	if err != nil {
		t.Fatalf("no events: %v\n%s", err, out.String())
	}
	return engineRun{out.String(), cmd.ProcessState.ExitCode(), string(text), tap.sent(t)}
}

// engineState is stateOf for runs that leave files of subordinate ids behind, which only root inside can remove.
func engineState(t *testing.T) []string {
	dir, err := os.MkdirTemp("", "weir-engine-")
	if err != nil {
		t.Fatal(err)
	}
	env := append(os.Environ(), "XDG_DATA_HOME="+dir+"/data", "XDG_STATE_HOME="+dir+"/state", "XDG_CONFIG_HOME="+dir+"/config")
	t.Cleanup(func() {
		cmd := exec.Command(filepath.Join(binDir(), "weir"), "run", "-q", "--profile", "engine", "--name", "engine", "--", "sh", "-c", "rm -rf /var/* /var/.[!.]*")
		cmd.Env = env
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("clean up: %v\n%s", err, out)
		}
		if out, err := exec.Command("rm", "-rf", dir).CombinedOutput(); err != nil { // and not os.RemoveAll: root needs its capabilities here
			t.Errorf("clean up: %v\n%s", err, out)
		}
	})
	return env
}

// connects are the network-connect events, each "HOSTNAME or ADDRESS:PORT verdict".
func (r engineRun) connects(t *testing.T) (list []string) {
	t.Helper()
	for line := range strings.Lines(r.events) {
		var e struct {
			Event   string
			Details struct {
				Hostname, Dest_IP, Src_IP, Verdict string
				Dest_Port                          int
			}
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		if e.Event == "network-connect" {
			list = append(list, e.Details.Verdict+" "+e.Details.Dest_IP)
			if e.Details.Src_IP != "10.77.0.2" && e.Details.Src_IP != "fd77::2" {
				t.Errorf("a flow from another source: %s", line)
			}
		}
	}
	return list
}

// engineImage is an image with one static program, as a tar file, with files of several owners.
func engineImage(t *testing.T) string {
	t.Helper()
	program, err := os.ReadFile(filepath.Join(binDir(), "probe"))
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range []tar.Header{
		{Name: "probe", Mode: 0o755, Size: int64(len(program))},
		{Name: "www", Mode: 0o755, Uid: 33, Gid: 33, Typeflag: tar.TypeDir},
		{Name: "late", Mode: 0o755, Uid: 50000, Gid: 50000, Typeflag: tar.TypeDir},
		{Name: "tmp", Mode: 0o1777, Typeflag: tar.TypeDir},
	} {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			w.Write(program)
		}
	}
	w.Close()
	path := filepath.Join(t.TempDir(), "image.tar")
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestPodmanInside: an engine inside runs containers from an image of many users, on a bridge of its own, and what they
// send is named, judged and recorded like everything else.
func TestPodmanInside(t *testing.T) {
	needsEngine(t, "podman", "crun", "ip")
	r := runEngine(t, `
set -e
podman import -q /run/image.tar probe >/dev/null
stat -c 'owner %u' $(podman image mount probe)/late
podman run --rm probe /probe get http://shop.example/ || true
podman run --rm --user 33 probe /probe tcp tools.example:7 'from a user'
podman run --rm --network host probe /probe tcp tools.example:7 'on the host network'
podman run --rm --network none probe /probe tcp `+tools.String()+`:7 x || true
echo -- denied
podman run --rm probe /probe get http://evil.example/ || true
podman run --rm probe /probe tcp `+evil.String()+`:80 x || true
`, "--allow", "shop.example", "--allow", "tools.example:7", "--share="+engineImage(t)+":/run/image.tar:ro")
	allowed, denied, ok := strings.Cut(r.output, "-- denied\n")
	if !ok || r.status != 0 {
		t.Fatalf("status %d:\n%s", r.status, r.output)
	}
	for _, want := range []string{"owner 50000", "hello from shop.example", "from a user", "on the host network", "ENETUNREACH"} {
		if !strings.Contains(allowed, want) {
			t.Errorf("no %q in:\n%s", want, allowed)
		}
	}
	if strings.Contains(denied, "hello") || strings.Count(denied, "error:") != 2 {
		t.Errorf("of what is denied:\n%s", denied)
	}
	for _, want := range []struct {
		kind   string
		fields []string
	}{
		{"dns-query", []string{"hostname=shop.example", "verdict=allow"}},
		{"network-connect", []string{"hostname=shop.example", "dest_ip=" + shop.String(), "verdict=allow", "name_source=http-host", "src_ip=10.77.0.2"}},
		{"network-close", []string{"bytes_received=*"}},
		{"network-connect", []string{"hostname=tools.example", "dest_port=7", "verdict=allow"}},
		{"dns-query", []string{"hostname=evil.example", "verdict=deny", "reason=dns-blocked"}},
		{"network-connect", []string{"dest_ip=" + evil.String(), "verdict=deny", "reason=default"}},
	} {
		if !hasEvent(t, r.events, want.kind, want.fields...) {
			t.Errorf("no %s with %v in:\n%s", want.kind, want.fields, r.events)
		}
	}
	r.connects(t)
	for _, p := range r.sent {
		if strings.Contains(p, evil.String()) {
			t.Errorf("left the host: %s", p)
		}
	}
}

// TestRootInsideChangesNothing: whatever root makes of its network, every flow has the assigned address and a verdict,
// and no packet goes where none is allowed to.
func TestRootInsideChangesNothing(t *testing.T) {
	needsEngine(t, "ip", "unshare")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	const allowed, denied = "/run/probe tcp 198.51.100.20:7 answered", "/run/probe tcp 203.0.113.66:80 x"
	// by points the default route and the gateway's neighbour entry at a link.
	by := func(link string) string {
		return "ip neigh replace 10.77.0.1 dev " + link + " lladdr 02:77:65:69:72:01 nud permanent && ip route replace 10.77.0.1 dev " + link + " && ip route replace default via 10.77.0.1 dev " + link
	}
	for _, c := range []struct {
		name, change string
		carried      bool   // what is allowed still gets through
		dropped      string // what is dropped and counted besides
	}{
		{"nothing", `true`, true, ""},
		{"another address besides", `ip addr add 10.9.9.9/24 dev eth0`, true, ""},
		{"another address instead", `ip addr flush dev eth0 && ip addr add 10.77.0.3/32 dev eth0 && ` + by("eth0"), false, "drop-spoofed-source"},
		{"the host's address", `ip addr flush dev eth0 && ip addr add 192.0.2.2/24 dev eth0 && ` + by("eth0"), false, "drop-spoofed-source"},
		{"a source by the route", `ip addr add 10.9.9.9/32 dev lo && ip route replace default via 10.77.0.1 src 10.9.9.9`, false, "drop-spoofed-source"},
		{"everything on the link", `ip neigh add 198.51.100.20 dev eth0 lladdr 02:77:65:69:72:01 && ip neigh add 203.0.113.66 dev eth0 lladdr 02:77:65:69:72:01 && ip route replace default dev eth0`, true, ""},
		{"another MAC for the gateway", `ip neigh replace 10.77.0.1 dev eth0 lladdr 02:00:00:00:00:98`, false, "drop-foreign-mac"},
		{"another MAC", `ip link set eth0 down && ip link set eth0 address 02:00:00:00:00:99 && ip link set eth0 up && ` + by("eth0"), false, ""}, // the answers go to the one that it had
		{"no link", `ip link set eth0 down`, false, ""},
		{"another MTU", `ip link set eth0 mtu 9000`, true, ""},
		{"another name", `ip link set eth0 down && ip link set eth0 name wan && ip link set wan up && ` + by("wan"), true, ""},
		{"a bridge", `ip link add br0 type bridge && ip link set br0 up && ip addr flush dev eth0 && ip link set eth0 master br0 && ip addr add 10.77.0.2/32 dev br0 && ` + by("br0"), true, ""},
		{"a machine behind a bridge", `ip link add br0 type bridge && ip link set br0 up && ip link set eth0 master br0 && ip netns add m && ip link add v0 type veth peer name v1 netns m && ip link set v0 up master br0 &&
			ip -n m addr add 10.77.0.9/24 dev v1 && ip -n m link set v1 up && ip -n m neigh add 10.77.0.1 dev v1 lladdr 02:77:65:69:72:01 && ip -n m route add default via 10.77.0.1 &&
			{ ip netns exec m timeout 1 ` + allowed + `; ip netns exec m timeout 1 ` + denied + `; ip link set eth0 nomaster; }`, true, "drop-spoofed-source"},
		{"a macvlan", `ip link add link eth0 name m0 type macvlan mode bridge && ip addr flush dev eth0 && ip addr add 10.77.0.2/32 dev m0 && ip link set m0 up && ` + by("m0"), true, ""},
		{"an IP tunnel", `ip link add t0 type ipip local 10.77.0.2 remote 203.0.113.66 && ip addr add 10.8.8.1/24 dev t0 && ip link set t0 up && { timeout 1 /run/probe tcp 10.8.8.2:80 x; true; }`, true, ""},
		{"a second TAP", `ip tuntap add mode tap name tap9 && ip link set tap9 up && ip addr add 203.0.113.1/24 dev tap9 && { timeout 1 /run/probe tcp 203.0.113.66:80 x; ip link del tap9; }`, true, ""},
		{"forged frames", `/run/spoof eth0`, true, "drop-spoofed-source"},
		{"a namespace in the namespace", `! unshare -Urn /run/probe tcp 198.51.100.20:7 'got out'`, true, ""},
		{"the link moved away", `{ unshare -n sleep 20 & } && sleep 0.2 && ip link set eth0 netns $!`, false, ""},
		{"a firewall of its own", `nft add table ip t && nft 'add chain ip t c { type nat hook output priority -100; }' && nft add rule ip t c ip daddr 198.51.100.20 tcp dport 8 dnat to 203.0.113.66:80 && ! timeout 3 /run/probe tcp 198.51.100.20:8 x`, true, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel() // what may leave is the same for all
			r := runEngine(t, allowed+"\n"+denied+"\n"+c.change+" || { echo cannot be made; exit 9; }\necho -- changed\ntimeout 1 "+allowed+"\ntimeout 1 "+denied+"\ntrue",
				"--allow", "198.51.100.20:7", "--share="+self+":/run/spoof:ro")
			if r.status == 9 {
				t.Skipf("this kernel cannot make it: %s", r.output)
			}
			before, after, ok := strings.Cut(r.output, "-- changed\n")
			if !ok || !strings.Contains(before, "answered") || strings.Contains(r.output, "got out") {
				t.Fatalf("status %d:\n%s", r.status, r.output)
			}
			if carried := strings.Contains(after, "answered"); carried != c.carried {
				t.Errorf("what is allowed was carried: %v, want %v\n%s", carried, c.carried, r.output)
			}
			for _, flow := range r.connects(t) {
				if flow != "allow 198.51.100.20" && !strings.HasPrefix(flow, "deny ") {
					t.Errorf("recorded: %s", flow)
				}
			}
			for _, p := range r.sent {
				if !strings.HasPrefix(p, "protocol 6 to 198.51.100.20,") {
					t.Errorf("left the host: %s", p)
				}
			}
			if len(r.sent) == 0 {
				t.Error("nothing left the host at all: that the rest did not proves nothing")
			}
			if c.dropped != "" && !hasEvent(t, r.events, "dropped", "what="+c.dropped, "count=*") {
				t.Errorf("nothing was dropped and counted:\n%s", r.events)
			}
		})
	}
}

// TestEngineControl: with the rule that TestRootInsideChangesNothing goes without, what must not leave there does.
func TestEngineControl(t *testing.T) {
	needsEngine(t)
	r := runEngine(t, "/run/probe tcp 203.0.113.66:80 x", "--allow", "203.0.113.66:80")
	if !slices.ContainsFunc(r.sent, func(p string) bool { return strings.HasPrefix(p, "protocol 6 to 203.0.113.66,") }) {
		t.Errorf("no packet left: %v\n%s", r.sent, r.output)
	}
	if got := r.connects(t); !slices.Equal(got, []string{"allow 203.0.113.66"}) {
		t.Errorf("recorded: %v", got)
	}
}

// TestEngineWalls: root inside has all capabilities and can undo nothing that keeps it in.
func TestEngineWalls(t *testing.T) {
	needsEngine(t, "unshare", "setpriv")
	share := t.TempDir()
	ln, err := net.Listen("unix", filepath.Join(share, "socket"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	if err := os.WriteFile(filepath.Join(share, "file"), []byte("outside\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{share, filepath.Dir(share)} { // both are the test's own
		if err := os.Chmod(dir, 0o755); err != nil { // called by root, root inside is another user
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if b, err := os.ReadFile(filepath.Join(share, "file")); err != nil || string(b) != "outside\n" {
			t.Errorf("the host's file: %q, %v", b, err)
		}
	})
	for _, c := range []struct{ name, script, want string }{
		{"root", `id -u; cat /proc/self/uid_map | wc -l; grep CapEff /proc/self/status`, "^0\n2\nCapEff:\t0*1ff"},
		{"many users", `touch /var/f && chown 33:33 /var/f && stat -c %u:%g /var/f; setpriv --reuid 33 --regid 33 --clear-groups id -u`, "^33:33\n33\n$"},
		{"new namespaces", `unshare -Urmpf --mount-proc sh -c 'id -u; ls /proc | grep -c "^[0-9]"'`, "^0\n[1-9]\n$"},
		{"mounts of its own", `mkdir /tmp/m && mount -t tmpfs none /tmp/m && touch /tmp/m/x && ls /tmp/m`, "^x\n$"},
		{"a share stays read-only", `mount -o remount,rw,bind /run/share; umount /run/share; echo x >/run/share/file; cat /run/share/file`, "outside\n$"},
		{"the same in a namespace more", `unshare -m sh -c 'mount -o remount,rw,bind /run/share; echo x >/run/share/file'; cat /run/share/file`, "outside\n$"},
		{"a bind of it is read-only", `mkdir /tmp/b && mount --rbind /run/share /tmp/b && mount -o remount,rw,bind /tmp/b; echo x >/tmp/b/file; cat /run/share/file`, "outside\n$"},
		{"the host's socket stays covered", `umount /run/share/socket; stat -c %F /run/share/socket`, "regular empty file\n$"},
		{"what is beneath cannot be bound", `mkdir /tmp/b && mount --bind /run/share /tmp/b && stat -c %F /tmp/b/socket; umount -l /run/share; stat -c %F /run/share/socket`, "regular empty file\n$"},
		{"system directories", `mount -o remount,rw,bind /usr; touch /usr/made-inside; umount -l /usr; ls /usr/bin >/dev/null && ! test -e /usr/made-inside && echo ok`, "ok\n$"},
		{"no device is made", `mknod /var/disk b 8 0; test -e /var/disk || echo none`, "none\n$"},
		{"descriptors", `for f in /proc/self/fd/*; do test -e $f && echo ${f##*/}; done`, "^0\n1\n2\n$"},
		{"kernel settings", `echo x >/proc/sys/kernel/core_pattern; echo b >/proc/sysrq-trigger; cat /sys/kernel/uevent_helper; echo x >/sys/kernel/uevent_helper; echo end`, "(denied.*\n.*)+end\n$"},
		{"the outer PID 1", `umount /proc; cut -c1-9 /proc/1/cmdline; cat /proc/1/environ /proc/1/maps /proc/1/root/etc/hostname 2>&1 | grep -vc denied; kill -9 1 8 2>/dev/null; echo alive`, "^weir-init\n0\nalive\n$"},
		{"the inner PID 1", `kill -9 1; cat /proc/1/environ >/dev/null; dd if=/dev/zero of=/proc/1/mem bs=1 count=1 seek=4096; echo alive`, "denied(.*\n)*.*denied(.*\n)*alive\n$"},
		{"no keys", `keyctl show 2>&1 || echo none`, "none\n$"},
		{"rootlesskit's door", `ls -a /run/.weir-engine`, `(?s)\A(\.|\.\.|child_pid|hosts|lock|resolv.conf|\n)*\z`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r := runEngine(t, c.script, "--share="+share+":/run/share:ro")
			if !regexp.MustCompile(c.want).MatchString(r.output) {
				t.Errorf("got %q, want %s", r.output, c.want)
			}
		})
	}
}

// TestEngineSignals: what weir is sent CMD gets, through rootlesskit's processes too.
func TestEngineSignals(t *testing.T) {
	needsEngine(t)
	r := startReady(t, "weir", "run", "-q", "--profile", "engine", "--", "sh", "-c", `trap "echo got it; exit 3" TERM; echo ready; while :; do sleep 0.02; done`)
	r.cmd.Process.Signal(syscall.SIGTERM)
	if out, status := r.rest(t); out != "got it\n" || status != 3 {
		t.Errorf("the program said %q, weir ended with %d; stderr %q", out, status, r.stderr.String())
	}
}

// TestEngineDeath: whoever of the sandbox's processes is killed, nothing of it is left.
func TestEngineDeath(t *testing.T) {
	needsEngine(t)
	for _, victim := range []string{"weir", "weir-datapath", "weir-init", "weir-engine", "/proc/self/exe"} {
		t.Run(filepath.Base(victim), func(t *testing.T) {
			// The grandchild has left CMD's session and holds on.
			r := startReady(t, "weir", "run", "-q", "--profile", "engine", "--", "sh", "-c", `trap "" HUP TERM; setsid sh -c 'trap "" HUP TERM; sleep 1000' & unshare -pf sleep 1000 & sleep 0.1; echo ready; exec sleep 1000`)
			family := descendants(t, r.cmd.Process.Pid)
			pid := r.cmd.Process.Pid
			for _, p := range slices.Backward(family) {
				if p.name == victim {
					pid = p.pid
				}
			}
			if len(family) < 7 || pid == r.cmd.Process.Pid && victim != "weir" {
				t.Fatalf("these run under weir: %v", family)
			}
			syscall.Kill(pid, syscall.SIGKILL)
			if _, status := r.rest(t); victim != "weir" && status != 128+int(syscall.SIGKILL) {
				t.Errorf("weir ended with %d", status)
			}
			waitGone(t, family)
		})
	}
}

// TestEngineLinkDeleted: root inside may take the TAP away. Then nobody sees what it does, so it ends.
func TestEngineLinkDeleted(t *testing.T) {
	needsEngine(t)
	r := startReady(t, "weir", "run", "--profile", "engine", "--", "sh", "-c", "echo ready; read go; ip link del eth0; exec sleep 1000")
	family := descendants(t, r.cmd.Process.Pid)
	io.WriteString(r.stdin, "go\n")
	if _, status := r.rest(t); status != 128+int(syscall.SIGKILL) || !strings.Contains(r.stderr.String(), "the data path ended") {
		t.Errorf("weir ended with %d and said %q", status, r.stderr.String())
	}
	waitGone(t, family)
}

// TestEngineStreams: a file as stdin or stdout is no more than it is, though root inside owns it. The bytes are exact.
func TestEngineStreams(t *testing.T) {
	needsEngine(t)
	dir := t.TempDir()
	in, out := filepath.Join(dir, "in"), filepath.Join(dir, "out")
	text := strings.Repeat("0123456789abcdef\n", 1<<14) // more than any pipe holds
	if err := os.WriteFile(in, []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(out, []byte("secret\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", `exec weir run -q --profile engine -- sh -c 'cat; echo x >/proc/self/fd/0; stat -L -c %F /proc/self/fd/1; echo problem >&2; exit 5' <`+in+` >>`+out+` 2>&1`)
	cmd.Env = append(engineState(t), "PATH="+binDir()+":"+os.Getenv("PATH"))
	cmd.Run()
	if b, err := os.ReadFile(in); err != nil || string(b) != text {
		t.Errorf("the host's file is another: %d bytes, %v", len(b), err)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	got, ok := strings.CutPrefix(string(b), "secret\n"+text)
	if !ok || !strings.HasSuffix(got, "problem\n") || !strings.Contains(got, "fifo\n") || cmd.ProcessState.ExitCode() != 5 {
		t.Errorf("status %d, %d bytes, the last of them %q", cmd.ProcessState.ExitCode(), len(b), got)
	}
}
