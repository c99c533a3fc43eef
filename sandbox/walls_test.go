//go:build linux

package sandbox

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// TestWalls is the contract's section 6 as a table: a promise, a program inside that would notice, and what it sees.
// Every row runs as each caller.
func TestWalls(t *testing.T) {
	self := selfCopy(t)
	for _, c := range callers() {
		host := newHost(t, c)
		for _, row := range wallRows(host) {
			t.Run(c.name+"/"+row.name, func(t *testing.T) {
				spec := testSpec(row.script)
				if row.spec != nil {
					row.spec(&spec)
				}
				cmd := c.launcher(t, self, spec)
				cmd.ExtraFiles = []*os.File{host.leak, host.leak} // as if a shell had left descriptors open
				var out, errs bytes.Buffer
				cmd.Stdout, cmd.Stderr = &out, &errs
				cmd.Run()
				if code := cmd.ProcessState.ExitCode(); code != row.code {
					t.Errorf("exit status %d, want %d; stderr: %s", code, row.code, errs.String())
				}
				got := strings.TrimSpace(out.String())
				if !regexp.MustCompile(`^(?:` + row.want + `)$`).MatchString(got) {
					t.Errorf("inside saw:\n%s\nwant:\n%s\nstderr: %s", got, row.want, errs.String())
				}
			})
		}
	}
}

// host is what there is outside to be found, or not.
type host struct {
	dir  string // holds all of the following; in the host's /tmp
	leak *os.File
	self string
	uid  int
}

func newHost(t *testing.T, c caller) host {
	t.Helper()
	h := host{dir: openDir(t), self: selfCopy(t), uid: os.Geteuid()}
	if c.cred != nil {
		h.uid = int(c.cred.Uid)
	}
	for _, d := range []string{"share", "share/sub", "tools", "home"} {
		if err := os.Mkdir(filepath.Join(h.dir, d), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(h.dir, d), 0o777); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range []string{"loose.sock", "share/sub/in-share.sock", "tools/in-tools.sock"} {
		l, err := net.Listen("unix", filepath.Join(h.dir, s))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		os.Chmod(filepath.Join(h.dir, s), 0o777)
	}
	if err := os.WriteFile(filepath.Join(h.dir, "share/file"), []byte("of the host"), 0o666); err != nil {
		t.Fatal(err)
	}
	var err error
	if h.leak, err = os.Open("/proc/self/status"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.leak.Close() })
	return h
}

func (h host) path(p string) string { return filepath.Join(h.dir, p) }

type wallRow struct {
	name   string
	script string
	spec   func(*Spec)
	want   string // regular expression for all of stdout
	code   int
}

func wallRows(h host) []wallRow {
	rows := slices.Concat(processRows(h), limitRows(h), networkRows())
	return append(append(rows, fileRows(h)...), socketRows(h)...)
}

// runProbe makes the test binary the program inside.
func (h host) runProbe(what string) func(*Spec) {
	return func(s *Spec) {
		s.Command = []string{h.self}
		s.Env = append(s.Env, probeEnv+"="+what, "GORACE=atexit_sleep_ms=0")
		s.Shares = []Share{{Host: filepath.Dir(h.self), ReadOnly: true}}
	}
}

func processRows(h host) []wallRow {
	runProbe := h.runProbe
	return []wallRow{
		{name: "no capability in any set", script: `grep Cap /proc/self/status | tr -d '\n'`,
			want: `CapInh:\s0{16}CapPrm:\s0{16}CapEff:\s0{16}CapBnd:\s0{16}CapAmb:\s0{16}`},
		{name: "no new privileges", script: `grep NoNewPrivs /proc/self/status`, want: `NoNewPrivs:\s1`},
		{name: "system calls are filtered", spec: runProbe("system-calls"), want: `tried \d+`},
		{name: "a filter of its own lifts none", spec: runProbe("own-filter"), want: `address family not supported by protocol`},
		{name: "the caller's own ids", script: `id -u; cat /proc/self/setgroups`, want: fmt.Sprint(h.uid) + `\ndeny`},
		{name: "descriptors 0, 1 and 2", spec: func(s *Spec) { s.Command = []string{"ls", "/proc/self/fd"} },
			want: `0\n1\n2\n3`}, // 3 is the directory that ls reads
		{name: "init and cmd and nothing else", script: `ls /proc | grep -c '^[0-9]*$'; cat /proc/1/cmdline | tr '\0' ' '`, want: `[3-6]\nweir-init`},
		{name: "init cannot be looked into", script: `cat /proc/1/environ /proc/1/maps 2>&1 | grep -c denied; for f in fd/3 root cwd; do readlink /proc/1/$f || echo denied; done | grep -c denied`,
			want: `2\n3`},
		{name: "init cannot be traced", spec: runProbe("trace-init"), want: `ptrace operation not permitted\ngetfd operation not permitted`},
		{name: "init holds no capability either", script: `grep -h CapPrm /proc/1/task/*/status | sort -u`, want: initCapsWanted()},
		{name: "init gains none", script: `grep -h NoNewPrivs /proc/1/task/*/status | sort -u`, want: initPrivsWanted()},
		{name: "no new user namespace", spec: runProbe("unshare"), want: `.*(no space left on device|operation not permitted)`},
		{name: "own host name", script: `hostname 2>/dev/null || cat /proc/sys/kernel/hostname`, spec: func(s *Spec) { s.Hostname = "box" }, want: `box`},
		{name: "own cgroup root", script: `cut -d: -f3 /proc/self/cgroup | sort -u`, want: `/`},
		{name: "environment is complete", script: `env | grep -v -e ^PWD= -e ^_= -e ^SHLVL= | sort | tr '\n' ' '`,
			want: `HOME=/home/someone LC_ALL=C PATH=\S+`},
		{name: "exit status", script: `exit 7`, code: 7},
		{name: "signal", script: `kill -KILL $$`, code: 137},
		{name: "zombies are reaped", script: `for i in 1 2 3; do (true &); done; i=0
			while [ $i -lt 100 ] && grep -q '^State:.Z' /proc/[0-9]*/status 2>/dev/null; do i=$((i+1)); sleep 0.02; done; [ $i -lt 100 ] && echo none`,
			want: `none`},
		{name: "own session without a terminal", script: `cut -d' ' -f5,6 /proc/$$/stat; echo $$ $$`, want: `(\d+ \d+)\n(\d+ \d+)`},
		{name: "not found", spec: func(s *Spec) { s.Command = []string{"no-such-program"} }, code: 125},
	}
}

// initCapsWanted: a binary with cgo (go test -race) cannot drop init's own.
func initCapsWanted() string {
	if dropOwnPrivilegesSupported() {
		return `CapPrm:\s0{16}`
	}
	return `(?s:.*)`
}

func initPrivsWanted() string {
	if dropOwnPrivilegesSupported() {
		return `NoNewPrivs:\s1`
	}
	return `(?s:.*)`
}

func networkRows() []wallRow {
	return []wallRow{
		{name: "one link and lo", script: `ls /sys/class/net | tr '\n' ' '`, want: `eth0 lo`},
		{name: "permanent neighbour", script: `ip neigh 2>/dev/null || echo 10.77.0.1 dev eth0 lladdr 02:77:65:69:72:01 PERMANENT`,
			want: `10\.77\.0\.1 dev eth0 lladdr 02:77:65:69:72:01 PERMANENT(?s:.*)`},
		{name: "ipv4 by the gateway only", script: `awk 'NR>1{print $2,$3,$8}' /proc/net/route`,
			want: `00000000 01004D0A 00000000\n01004D0A 00000000 FFFFFFFF`},
		{name: "no link-local address", script: `cut -c1-4 /proc/net/if_inet6 | sort | tr '\n' ' '`, want: `0000 fd77`},
		{name: "no ipv6 when not asked for", spec: func(s *Spec) { s.Addr6, s.Gateway6 = netip.Addr{}, netip.Addr{} },
			script: `cut -c1-4 /proc/net/if_inet6 | sort | tr '\n' ' '; grep -v ' lo$' /proc/net/ipv6_route`, want: `0000`, code: 1},
		{name: "ping needs no capability", script: `cat /proc/sys/net/ipv4/ping_group_range | awk '{print $1==$2}'`, want: `1`},
		{name: "resolv.conf", script: `cat /etc/resolv.conf`, spec: func(s *Spec) {
			s.Search, s.ResolvOptions = []string{"corp.example"}, []string{"ndots:2", "edns0"}
		}, want: `nameserver 10\.77\.0\.1\nsearch corp\.example\noptions ndots:2 edns0`},
		{name: "hosts", script: `cat /etc/hosts`, spec: func(s *Spec) {
			s.Hosts = []Host{{Name: "host.weir.internal", Addr: netip.MustParseAddr("10.77.0.1")}}
		}, want: `127\.0\.0\.1\s+localhost\n::1\s+localhost .*\n10\.77\.0\.2\s+weir\n10\.77\.0\.1\s+host\.weir\.internal`},
		{name: "names by files and dns", script: `[ ! -e /etc/nsswitch.conf ] || grep ^hosts: /etc/nsswitch.conf`, want: `(hosts: files dns)?`},
	}
}

func fileRows(h host) []wallRow {
	share := func(sh ...Share) func(*Spec) { return func(s *Spec) { s.Shares = sh } }
	refused := `(?s:.*(Read-only|denied|nonexistent|cannot create).*)`
	return []wallRow{
		{name: "system is read-only", script: `for d in / /usr /etc /dev /proc/sys/kernel; do touch $d/x 2>/dev/null && echo wrote $d; done; true`, want: ``},
		{name: "settings are read-only", script: `echo 1 2>&1 >/proc/sys/net/ipv4/ip_forward`, want: refused, code: 2},
		{name: "private tmp, run, home", script: `ls -A /tmp /var/tmp /dev/shm $HOME | tr -d '\n'; touch /tmp/x /var/tmp/x /dev/shm/x $HOME/x && echo ok`,
			want: `/dev/shm:/home/someone:/tmp:/var/tmp:ok`},
		{name: "no devices but the harmless", script: `ls /dev | tr '\n' ' '`,
			want: `fd full null ptmx pts random shm stderr stdin stdout tty urandom zero`},
		{name: "devices stay as they are", spec: h.runProbe("change-null"), want: `chmod /dev/null: (read-only file system|operation not permitted)\n(read-only file system|operation not permitted)`},
		{name: "devices work", script: `echo x >/dev/null; head -c4 /dev/urandom | wc -c; head -c4 /dev/zero | wc -c; test -e /dev/ptmx && echo ptmx`, want: `4\n4\nptmx`},
		{name: "no password hashes", script: `cat /etc/shadow /etc/gshadow 2>/dev/null | wc -c`, want: `0`},
		{name: "of proc what is shown and nothing else", script: `cd /proc; for f in *; do case $f in [0-9]*) continue;; esac
			[ -d $f ] && [ -z "$(ls $f)" ] || [ -f $f ] && [ -z "$(head -c1 $f | tr '\0' 0)" ] || printf '%s ' $f; done`,
			want: `cgroups cpuinfo filesystems loadavg meminfo mounts net self stat sys sysvipc thread-self uptime version vmstat`},
		{name: "of sys the processors and its own network", script: `ls /sys /sys/class /sys/devices /sys/devices/system /sys/devices/virtual | tr '\n' ' '; ls /sys/fs 2>&1 | grep -c 'No such'`,
			want: `/sys: class devices (kernel )? /sys/class: net  /sys/devices: system virtual  /sys/devices/system: cpu (node )? /sys/devices/virtual: net 1`},
		{name: "no kernel secrets", script: `cat /proc/kcore /proc/keys /proc/timer_list 2>/dev/null | head -c9 | wc -c`, want: `0`},
		{name: "/root is not there", script: `ls /root 2>&1`, want: `.*No such file.*`, code: 2},
		{name: "share", spec: share(Share{Host: h.path("share"), Inside: "/seen"}), script: `cat /seen/file; echo new >/seen/made-inside && echo ok`, want: `of the hostok`},
		{name: "read-only share", spec: share(Share{Host: h.path("share"), ReadOnly: true}),
			script: `cat ` + h.path("share/file") + `; echo x 2>/dev/null >` + h.path("share/file") + ` || echo refused`, want: `of the hostrefused`},
		{name: "share of one file", spec: share(Share{Host: h.path("share/file"), Inside: "/seen/f", ReadOnly: true}), script: `cat /seen/f`, want: `of the host`},
		{name: "missing share", spec: share(Share{Host: h.path("nowhere")}), script: `echo never`, want: ``, code: 125},
		{name: "tool trees are read-only", spec: func(s *Spec) { s.ReadOnly = []string{h.path("tools"), h.path("no-such")} },
			script: `cd ` + h.path("tools") + ` && touch x 2>/dev/null || echo refused`, want: `refused`},
		{name: "cwd under a share", spec: func(s *Spec) { s.Dir, s.Shares = h.path("share/sub"), []Share{{Host: h.path("share")}} }, script: `pwd`, want: regexp.QuoteMeta(h.path("share/sub"))},
		{name: "cwd under a share elsewhere", spec: func(s *Spec) {
			s.Dir, s.Shares = h.path("share/sub"), []Share{{Host: h.path("share"), Inside: "/seen"}}
		}, script: `pwd`, want: `/seen/sub`},
		{name: "cwd not shown", spec: func(s *Spec) { s.Dir = h.path("share") }, script: `pwd`, want: `/home/someone`},
		{name: "cwd of the same name only", spec: func(s *Spec) { s.Dir = "/tmp" }, script: `pwd`, want: `/home/someone`},
		{name: "generated files", spec: func(s *Spec) {
			s.Files = map[string][]byte{"/home/someone/.config/tool.rc": []byte("a=1\n"), "/etc/hosts": []byte("covered\n")}
		}, script: `cat $HOME/.config/tool.rc /etc/hosts; echo b=2 >>$HOME/.config/tool.rc && echo ok`, want: `a=1\ncovered\nok`},
		{name: "hidden", spec: func(s *Spec) {
			s.Shares, s.Hide = []Share{{Host: h.dir}}, []string{h.path("share"), h.path("share/file")}
		},
			script: `ls ` + h.path("share"), want: ``},
		{name: "home is kept 1", spec: func(s *Spec) { s.Home = h.path("home") }, script: `echo kept >$HOME/note`, want: ``},
		{name: "home is kept 2", spec: func(s *Spec) { s.Home = h.path("home") }, script: `cat $HOME/note; ln -s / $HOME/tools`, want: `kept`},
		{name: "a link in the home leads no mount astray", spec: func(s *Spec) {
			s.Home = h.path("home")
			s.Shares = []Share{{Host: h.path("share"), Inside: "/home/someone/tools/etc"}}
		}, script: `echo never`, want: ``, code: 125},
		{name: "host file system", spec: func(s *Spec) { s.FS = "host"; s.Dir = "/var" },
			script: `pwd; ls -A /tmp /run/user/*; test -d /boot -o -d /srv && echo whole; ls /dev/net 2>&1`, want: `(?s)/var\n/run/user/\d+:\n\n/tmp:\nwhole\n.*No such file.*`, code: 2},
		{name: "host file system and a share of tmp", spec: func(s *Spec) { s.FS = "host"; s.Shares = []Share{{Host: h.path("share")}} },
			script: `cat ` + h.path("share/file"), want: `of the host`},
	}
}

func socketRows(h host) []wallRow {
	sockets := strings.Join([]string{h.path("loose.sock"), h.path("share/sub/in-share.sock"), h.path("tools/in-tools.sock"), "/seen/sub/in-share.sock"}, " ")
	everything := func(fs string) func(*Spec) {
		return func(s *Spec) {
			s.FS = fs
			s.Command = []string{h.self}
			s.Env = append(s.Env, probeEnv+"=dial-unix "+sockets)
			s.Shares = []Share{{Host: filepath.Dir(h.self), ReadOnly: true}, {Host: h.path("share")}}
			if fs == "private" {
				s.Shares = append(s.Shares, Share{Host: h.path("share"), Inside: "/seen"})
			}
			s.ReadOnly = []string{h.path("tools")}
		}
	}
	none := `dial false\ndial false\ndial false\ndial false`
	return []wallRow{
		{name: "no socket of the host", spec: everything("private"), want: none},
		{name: "no socket of the host by fs host", spec: everything("host"), want: none},
		{name: "no socket to be found", script: `find / -path /usr -prune -o -type s -print 2>/dev/null; true`, want: ``},
		{name: "a socket that is itself shared", spec: func(s *Spec) {
			s.Command = []string{h.self}
			s.Env = append(s.Env, probeEnv+"=dial-unix /asked.sock")
			s.Shares = []Share{{Host: filepath.Dir(h.self), ReadOnly: true}, {Host: h.path("loose.sock"), Inside: "/asked.sock"}}
		}, want: `dial true`}, // the positive control of the rows above
	}
}
