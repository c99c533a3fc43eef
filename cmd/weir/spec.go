//go:build linux && !client

package main

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/weir-dev/weir/internal/stub"
	"github.com/weir-dev/weir/sandbox"
)

// The addresses of every sandbox's link. Each sandbox has a network of its own, so all may use the same; the /32 and /128
// hide nothing of the host's own networks but these.
var (
	guest4   = netip.MustParseAddr("10.77.0.2")
	gateway4 = netip.MustParseAddr("10.77.0.1")
	guest6   = netip.MustParseAddr("fd77::2")
	gateway6 = netip.MustParseAddr("fd77::1")

	gatewayMAC = net.HardwareAddr{0x02, 0x77, 0x65, 0x69, 0x72, 0x01}
	guestMAC   = net.HardwareAddr{0x02, 0x77, 0x65, 0x69, 0x72, 0x02}
)

// tunnelHostName is the name under which the sandbox knows the loopback of the user's machine, beyond the tunnel, and these are
// its addresses inside. The client at the other end is asked for 127.0.0.1 or ::1, and has its own word about that.
const tunnelHostName = "tunnel.weir.internal"

var (
	tunnelHost4 = netip.MustParseAddr("10.77.0.3")
	tunnelHost6 = netip.MustParseAddr("fd77::3")
)

// tunnelAlias maps those addresses to the loopback that they stand for.
func tunnelAlias() map[netip.Addr]netip.Addr {
	return map[netip.Addr]netip.Addr{tunnelHost4: netip.MustParseAddr("127.0.0.1"), tunnelHost6: netip.IPv6Loopback()}
}

// hostName is the name under which the sandbox knows the host's loopback.
const hostName = "host.weir.internal"

// hostAlias maps the gateway's addresses to the host's loopback that they stand for.
func hostAlias() map[netip.Addr]netip.Addr {
	return map[netip.Addr]netip.Addr{gateway4: netip.MustParseAddr("127.0.0.1"), gateway6: netip.IPv6Loopback()}
}

// buildSpec says what the walls are.
func (p *plan) buildSpec() error {
	env, withheld, err := environment(os.Environ(), p.env)
	if err != nil {
		return err
	}
	p.withheld = withheld
	home, err := os.UserHomeDir()
	if err != nil {
		return hint(fmt.Errorf("find home: %w", err), "HOME=/path/to/home weir run ...")
	}
	if home = filepath.Clean(home); !filepath.IsAbs(home) {
		return hint(fmt.Errorf("find home: $HOME is %q, which is not absolute", home), "HOME=/path/to/home weir run ...")
	}
	shares, err := parseShares(p.share)
	if err != nil {
		return err
	}
	shares, hidden, err := p.protect(shares)
	if err != nil {
		return err
	}
	dir, _ := os.Getwd()
	host := &stub.Host{}
	p.spec = sandbox.Spec{
		Command: p.command, Dir: dir, Env: env,
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		Door: p.door, Link: p.link, MTU: p.mtu,
		Addr4: guest4, Gateway4: gateway4, GuestMAC: guestMAC, GatewayMAC: gatewayMAC,
		Nameservers: []netip.Addr{gateway4}, Search: host.Search(), ResolvOptions: host.Options(),
		FS: p.fs, HomePath: home, Shares: shares, Hide: hidden,
		HostPorts: ports(p.hostPorts),
	}
	if hostHasIPv6() || p.tunnelled && kernelHasIPv6() {
		p.spec.Addr6, p.spec.Gateway6 = guest6, gateway6
	}
	if p.fs == "private" {
		if p.spec.Home, err = p.appHome(); err != nil {
			return err
		}
		p.spec.ReadOnly = toolPaths(home, env)
		p.spec.Files = settingsFiles(home)
	}
	if p.profile == "engine" {
		if err := p.engineSpec(); err != nil {
			return err
		}
	}
	if p.fs == "host" {
		own, err := ownDirs()
		if err != nil {
			return err
		}
		for _, dir := range own {
			if err := p.makeOwn(dir); err != nil {
				return err
			}
		}
		p.spec.Hide = append(p.spec.Hide, own...)
	}
	if p.learn != "" {
		if err := unix.Access(filepath.Dir(p.learn), unix.W_OK); err != nil {
			return fmt.Errorf("--learn %s: write there: %w", p.learn, err)
		}
	}
	return nil
}

// appHome is the directory that becomes the app's home, made if it is not there.
func (p *plan) appHome() (string, error) {
	dir, err := xdgDir("XDG_DATA_HOME", ".local/share")
	if err != nil {
		return "", err
	}
	dir = filepath.Join(dir, "weir", "apps", p.app, "home")
	if p.profile == "engine" {
		dir = filepath.Join(filepath.Dir(dir), "engine", "home")
	}
	if p.dryRun {
		return dir, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", hint(fmt.Errorf("make home of app: %w", err), "XDG_DATA_HOME=/a/directory/of/yours weir run ...")
	}
	if err := os.Chmod(dir, 0o700); err != nil { // its mode is the program's, who may have shut itself out
		return "", fmt.Errorf("make home of app: %w", err)
	}
	return dir, nil
}

// hiddenArg is the first argument of CMD that is a file outside and not inside: most of the time a script that the user
// forgot to share.
func (p *plan) hiddenArg() string {
	if p.fs != "private" {
		return ""
	}
	for _, arg := range p.command[1:] {
		path, err := filepath.Abs(arg)
		if err != nil || strings.HasPrefix(arg, "-") || !strings.ContainsAny(arg, "./") {
			continue
		}
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && !p.visible(path) {
			return path
		}
	}
	return ""
}

// visible reports whether the sandbox shows the path of a host file.
func (p *plan) visible(path string) bool {
	within := func(dir string) bool { return path == dir || below(filepath.Clean(dir), path) }
	return inSystemTree(path) || slices.ContainsFunc(p.spec.ReadOnly, within) || slices.ContainsFunc(p.spec.Shares, func(s sandbox.Share) bool { return within(s.Host) })
}

// ownDirs are weir's own directories: a program that sees the host's files must not see, or change, what weir keeps.
func ownDirs() ([]string, error) {
	var dirs []string
	for variable, below := range map[string]string{"XDG_CONFIG_HOME": ".config", "XDG_STATE_HOME": ".local/state", "XDG_DATA_HOME": ".local/share"} {
		dir, err := xdgDir(variable, below)
		if err != nil {
			return nil, err
		}
		dirs = append(dirs, filepath.Join(dir, "weir"))
	}
	if os.Geteuid() == 0 {
		dirs = append(dirs, filepath.Dir(systemKeys))
	}
	return dirs, nil
}

// parseShares reads --share HOST[:INSIDE][:ro].
func parseShares(list []string) ([]sandbox.Share, error) {
	var shares []sandbox.Share
	for _, text := range list {
		parts := strings.Split(text, ":")
		s := sandbox.Share{}
		if last := len(parts) - 1; last > 0 && (parts[last] == "ro" || parts[last] == "rw") {
			s.ReadOnly = parts[last] == "ro"
			parts = parts[:last]
		}
		if len(parts) > 2 || parts[0] == "" {
			return nil, fmt.Errorf("--share %q: want HOST[:INSIDE][:ro]", text)
		}
		host, err := filepath.Abs(parts[0])
		if err != nil {
			return nil, fmt.Errorf("--share %q: %w", text, err)
		}
		if _, err := os.Stat(host); err != nil {
			return nil, fmt.Errorf("--share %q: %w", text, err)
		}
		s.Host, s.Inside = host, host
		if len(parts) == 2 {
			if s.Inside = filepath.Clean(parts[1]); !filepath.IsAbs(s.Inside) {
				return nil, fmt.Errorf("--share %q: the path inside must be absolute", text)
			}
		}
		shares = append(shares, s)
	}
	return shares, nil
}

// hostHasIPv6 reports whether the host has an IPv6 address that is good for more than its own links. Without one the
// sandbox has no IPv6 either, so that programs do not wait for what cannot come.
func hostHasIPv6() bool {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	return slices.ContainsFunc(addrs, func(a net.Addr) bool {
		n, ok := a.(*net.IPNet)
		return ok && n.IP.To4() == nil && n.IP.IsGlobalUnicast()
	})
}

// kernelHasIPv6 reports whether a sandbox can have IPv6 at all. One with a tunnel has it whatever the host has: the user's
// machine may know addresses of no other kind.
func kernelHasIPv6() bool {
	_, err := os.Stat("/proc/sys/net/ipv6")
	return err == nil
}

// firstSeenFile keeps the names that an app has been seen with, one a line.
func firstSeenFile(app string) (string, error) {
	dir, err := stateDir()
	return filepath.Join(dir, "first-seen", app), err
}

// maxFirstSeen bounds the names that are kept of one app.
const maxFirstSeen = 10000

// knownHosts returns the names that the app was seen with before.
func knownHosts(app string) []string {
	path, err := firstSeenFile(app)
	if err != nil {
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer f.Close()
	var known []string
	for lines := bufio.NewScanner(f); lines.Scan() && len(known) < maxFirstSeen; {
		known = append(known, lines.Text())
	}
	return known
}

// rememberHosts adds names that were seen for the first time.
func rememberHosts(app string, hosts []string) error {
	if len(hosts) == 0 {
		return nil
	}
	path, err := firstSeenFile(app)
	if err == nil {
		err = os.MkdirAll(filepath.Dir(path), 0o700)
	}
	var f *os.File
	if err == nil {
		f, err = os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	}
	if err == nil {
		_, err = f.WriteString(strings.Join(hosts, "\n") + "\n")
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		return fmt.Errorf("remember first-seen hosts: %w", err)
	}
	return nil
}
