//go:build linux

package sandbox

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestLinkFallback: auto takes a veth where there is no TUN device, tap says so, nothing is left out in silence.
func TestLinkFallback(t *testing.T) {
	noTun := func(s *Spec) { s.TunPath = "/no/such/tun" }
	notTun := func(s *Spec) { s.TunPath = "/dev/null" }
	for _, row := range []struct {
		name, link string
		spec       func(*Spec)
		kind, step string
	}{
		{"auto with tun", "auto", func(*Spec) {}, "tap", ""},
		{"auto without tun", "auto", noTun, "veth", ""},
		{"auto with a wrong device", "auto", notTun, "veth", ""},
		{"tap without tun", "tap", noTun, "", StepTap},
		{"tap with a wrong device", "tap", notTun, "", StepTap},
		{"veth", "veth", noTun, "veth", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			if row.kind == "tap" {
				requireTun(t)
			}
			spec := testSpec("exit 0")
			spec.Link = row.link
			row.spec(&spec)
			s, err := Start(spec)
			if row.step != "" {
				wantSetupError(t, err, row.step, spec.TunPath)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			link, info := s.Link()
			link.Close()
			if info.Kind != row.kind {
				t.Errorf("link is %q", info.Kind)
			}
		})
	}
}

func wantSetupError(t *testing.T, err error, step, path string) {
	t.Helper()
	var setup *SetupError
	if !errors.As(err, &setup) || setup.Step != step || setup.Path != path || strings.Contains(err.Error(), "\n") {
		t.Errorf("error %q (%+v), want one line of a SetupError of step %q, path %q", err, setup, step, path)
	}
}

func TestSpecIsChecked(t *testing.T) {
	for name, breakIt := range map[string]func(*Spec){
		"no command":                             func(s *Spec) { s.Command = nil },
		"unknown link":                           func(s *Spec) { s.Link = "bridge" },
		"small mtu":                              func(s *Spec) { s.MTU = 1279 },
		"large mtu":                              func(s *Spec) { s.MTU = 65521 },
		"unknown fs":                             func(s *Spec) { s.FS = "none" },
		"no address":                             func(s *Spec) { s.Addr4 = netip.Addr{} },
		"families exchanged":                     func(s *Spec) { s.Addr4, s.Addr6 = s.Addr6, s.Addr4 },
		"no gateway":                             func(s *Spec) { s.Gateway6 = netip.Addr{} },
		"no mac":                                 func(s *Spec) { s.GuestMAC = nil },
		"relative home":                          func(s *Spec) { s.HomePath = "home" },
		"no home":                                func(s *Spec) { s.HomePath = "" },
		"root as home":                           func(s *Spec) { s.HomePath = "/" },
		"relative share":                         func(s *Spec) { s.Shares = []Share{{Host: "x"}} },
		"share over the root":                    func(s *Spec) { s.Shares = []Share{{Host: "/tmp", Inside: "/tmp/.."}} },
		"relative tool":                          func(s *Spec) { s.ReadOnly = []string{"bin"} },
		"relative file":                          func(s *Spec) { s.Files = map[string][]byte{"x": nil} },
		"host name with a line":                  func(s *Spec) { s.Hosts = []Host{{Name: "a\n10.0.0.1 b"}} },
		"search with a line":                     func(s *Spec) { s.Search = []string{"a\nnameserver 8.8.8.8"} },
		"option with a space":                    func(s *Spec) { s.ResolvOptions = []string{"a b"} },
		"hostname with a space":                  func(s *Spec) { s.Hostname = "a b" },
		"directory as stdin":                     func(s *Spec) { s.Stdin = open(t, "/", os.O_RDONLY) },
		"directory as stderr":                    func(s *Spec) { s.Stderr = open(t, "/", os.O_RDONLY) },
		"network socket as stdin":                func(s *Spec) { s.Stdin = socketFile(t, unix.AF_INET, unix.SOCK_STREAM) },
		"netlink socket as stdin":                func(s *Spec) { s.Stdin = socketFile(t, unix.AF_NETLINK, unix.SOCK_RAW) },
		"a unix socket that is not connected":    func(s *Spec) { s.Stdout = socketFile(t, unix.AF_UNIX, unix.SOCK_STREAM) },
		"a unix socket that can change its peer": func(s *Spec) { s.Stdout = pairFile(t, unix.SOCK_DGRAM) },
		"too many search suffix":                 func(s *Spec) { s.Search = strings.Split(strings.Repeat("a,", maxResolvList)+"a", ",") },
	} {
		t.Run(name, func(t *testing.T) {
			spec := testSpec("exit 0")
			breakIt(&spec)
			s, err := Start(spec)
			if err == nil {
				s.Close()
				t.Fatal("was accepted")
			}
			var setup *SetupError
			if !errors.As(err, &setup) || setup.Step != StepSpec {
				t.Errorf("error %v", err)
			}
		})
	}
}

func socketFile(t *testing.T, domain, kind int) *os.File {
	t.Helper()
	fd, err := unix.Socket(domain, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "socket")
	t.Cleanup(func() { f.Close() })
	return f
}

// pairFile is one end of a connected pair; the other lives as long.
func pairFile(t *testing.T, kind int) *os.File {
	t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f, other := os.NewFile(uintptr(pair[0]), "ours"), os.NewFile(uintptr(pair[1]), "theirs")
	t.Cleanup(func() { f.Close(); other.Close() })
	return f
}

// TestStreamPair: a pair is what Node and others give their children for a pipe.
func TestStreamPair(t *testing.T) {
	spec := testSpec("echo out")
	spec.Stdout = pairFile(t, unix.SOCK_STREAM)
	if got, err := run(spec); err != nil || got.Code != 0 {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestSetupErrorsNameTheCause(t *testing.T) {
	for _, row := range []struct {
		name  string
		spec  func(*Spec)
		step  string
		path  string
		cause error
	}{
		{"missing share", func(s *Spec) { s.Shares = []Share{{Host: "/no/such"}} }, StepMount, "/no/such", fs.ErrNotExist},
		{"missing home", func(s *Spec) { s.Home = "/no/such" }, StepMount, "/no/such", fs.ErrNotExist},
		{"no binary", func(s *Spec) { s.SelfExe = "/no/such" }, StepInit, "/no/such", fs.ErrNotExist},
		{"a binary that is no init", func(s *Spec) { s.SelfExe = "/bin/true" }, StepInit, "", nil},
		{"a host port twice", func(s *Spec) { s.HostPorts = []uint16{80, 80} }, StepListen, "127.0.0.1:80", unix.EADDRINUSE},
		{"a share below a file", func(s *Spec) { s.Shares = []Share{{Host: "/usr", Inside: "/etc/passwd/x"}} }, StepMount, "/etc/passwd/x", unix.ENOTDIR},
		{"a share in a read-only place", func(s *Spec) { s.Shares = []Share{{Host: "/usr", Inside: "/usr/no/such"}} }, StepMount, "/usr/no/such", unix.EROFS},
		{"a file in a read-only place", func(s *Spec) { s.Files = map[string][]byte{"/usr/no-such": nil} }, StepWrite, "/usr/no-such", unix.EROFS},
	} {
		t.Run(row.name, func(t *testing.T) {
			spec := testSpec("exit 0")
			row.spec(&spec)
			s, err := Start(spec)
			if err == nil {
				s.Close()
			}
			wantSetupError(t, err, row.step, row.path)
			if row.cause != nil && !errors.Is(err, row.cause) {
				t.Errorf("error %v does not wrap %v", err, row.cause)
			}
		})
	}
}

// TestOddHosts runs the launcher in a mount namespace that was made odd. It needs root to make it.
func TestOddHosts(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	if _, err := exec.LookPath("unshare"); err != nil {
		t.Skip(err)
	}
	self := selfCopy(t)
	for _, row := range []struct {
		name, odd, script string
		spec              func(*Spec)
		want, stderr      string
	}{
		{name: "masked proc", odd: `mount -t tmpfs none /proc/sys`, stderr: "mount proc: mount: operation not permitted\n"},
		{name: "masked sys", odd: `mount -t tmpfs none /sys/kernel`, script: `ls /sys; ls /sys/devices/system/cpu | grep -c '^online$'`, want: "devices\n1\n"},
		{name: "no resolv.conf and no hosts", odd: `cp -a /etc etc; rm etc/resolv.conf etc/hosts; mount --bind etc /etc`,
			script: `cat /etc/resolv.conf; grep -c localhost /etc/hosts; test -e /etc/passwd && touch /etc/x 2>/dev/null || echo kept`,
			want:   "nameserver 10.77.0.1\n2\nkept\n"},
		{name: "resolv.conf leads to run", odd: `cp -a /etc etc; ln -sf ../run/systemd/resolve/stub-resolv.conf etc/resolv.conf; mount --bind etc /etc`,
			script: `cat /etc/resolv.conf`, want: "nameserver 10.77.0.1\n"},
		{name: "user from a directory service", odd: `cp -a /etc etc; sed -i '/^root:/d' etc/passwd; mount --bind etc /etc`,
			script: `id -un; grep -c . /etc/passwd >/dev/null && echo rest`, want: "user\nrest\n"},
		{name: "no tun at all", odd: `mount --bind /dev/null /dev/net/tun`, spec: func(s *Spec) { s.Link = "tap" },
			stderr: "create tap /dev/net/tun: attach: inappropriate ioctl for device\n"},
	} {
		t.Run(row.name, func(t *testing.T) {
			spec := testSpec(row.script)
			if row.spec != nil {
				row.spec(&spec)
			}
			cmd := callers()[0].launcher(t, self, spec)
			odd := exec.Command("unshare", "-m", "sh", "-ec", row.odd+`; exec "$0"`, cmd.Path)
			odd.Dir, odd.Env = openDir(t), append(cmd.Env, "PATH=/usr/sbin:/usr/bin:/sbin:/bin")
			var errs strings.Builder
			odd.Stderr = &errs
			out, _ := odd.Output()
			if string(out) != row.want || errs.String() != row.stderr {
				t.Errorf("stdout %q, want %q; stderr %q, want %q", out, row.want, errs.String(), row.stderr)
			}
		})
	}
}

// TestNoUserNamespaces nests: inside a sandbox there are none, so a launcher there must say so.
func TestNoUserNamespaces(t *testing.T) {
	self := selfCopy(t)
	outer := probeSpec(t, "x")
	cmd := callers()[0].launcher(t, self, testSpec("exit 0"))
	outer.Command, outer.Env = []string{self}, cmd.Env
	outer.Shares = []Share{{Host: filepath.Dir(self), ReadOnly: true}}
	out := capture(t, &outer)
	outer.Stderr = outer.Stdout
	got, err := run(outer)
	if err != nil || got.Code != 125 || !strings.HasPrefix(out(), "create namespaces: ") {
		t.Errorf("got %+v, %v, %q", got, err, out())
	}
}

func FuzzFailure(f *testing.F) {
	f.Add("mount", "/x", "no", uint16(2))
	f.Fuzz(func(t *testing.T, step, path, text string, errno uint16) {
		in := &SetupError{Step: step, Path: path, Err: &remoteError{text: text, cause: unix.Errno(errno)}}
		out := newFailure(in).err()
		if len(text) < 1000 && out.Error() != in.Error() || errno != 0 && !errors.Is(out, unix.Errno(errno)) {
			t.Errorf("%q became %q", in, out)
		}
	})
}
