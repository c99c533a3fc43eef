//go:build linux

package sandbox

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"path"
	"slices"
	"strings"
)

// Spec says what a sandbox is to hold. Paths are absolute. [Start] copies what it needs: the caller keeps ownership of
// the files and may close them when Start has returned.
type Spec struct {
	// Command is CMD and its arguments. A name without a slash is looked up inside the sandbox with PATH of Env.
	Command []string
	// Dir is the caller's working directory. CMD starts in it when the same directory is visible inside (under a share,
	// a read-only tree, or anywhere with the host file system), and in HomePath otherwise.
	Dir string
	// Env is the complete environment of CMD; nothing is added.
	Env []string
	// Stdin, Stdout and Stderr become descriptors 0, 1 and 2 of CMD, whatever they are. nil is /dev/null.
	Stdin, Stdout, Stderr *os.File `json:"-"`

	// Door is "netstack" (the empty string too) for a link, "tproxy" for sockets of the network namespace instead (see
	// DoorSockets), "both" for both.
	Door string
	// Link is "tap", "veth" or "auto" (the empty string too): TAP, and a veth pair where no TAP can be had.
	Link string
	// MTU of the link, 1280 to 65520; 0 is 1500.
	MTU int
	// Addr4 and Addr6 are the sandbox's own addresses, Gateway4 and Gateway6 the routers. A zero Addr6 leaves the sandbox
	// without an IPv6 address or route (::1 on lo excepted).
	Addr4, Gateway4, Addr6, Gateway6 netip.Addr
	// GuestMAC is the address of the link inside, GatewayMAC the one its permanent neighbour entries hold.
	GuestMAC, GatewayMAC net.HardwareAddr
	// Nameservers, Search and ResolvOptions become /etc/resolv.conf.
	Nameservers   []netip.Addr
	Search        []string
	ResolvOptions []string
	// Hosts are lines of /etc/hosts after those for localhost and Hostname.
	Hosts []Host
	// Hostname inside; empty is "weir".
	Hostname string

	// FS is "private" (the empty string too) or "host"; see the package comment.
	FS string
	// Home is the host directory that becomes the home inside, writable and kept. Empty: a home in memory with FS
	// "private", the host's own with FS "host".
	Home string
	// HomePath is where the home is seen inside: the real home of the user, so that paths in tools' files agree.
	HomePath string
	// Shares are host files or directories made visible inside.
	Shares []Share
	// ReadOnly are host paths (tool trees below the real home that PATH names, most of the time) shown read-only at the
	// same path. One that does not exist is left out.
	ReadOnly []string
	// Files are generated files by their path inside. Below a writable directory they are written anew at each start,
	// elsewhere an existing file is covered read-only.
	Files map[string][]byte

	// Hide are host paths shown empty, whatever else would show them; for what FS "host" must not give away.
	Hide []string

	// HostPorts are ports on which 127.0.0.1 and ::1 inside listen for the caller; at most 64. See HostPortListeners.
	HostPorts []uint16

	// Profile is "tool" (the empty string too) or "engine": CMD is root over namespaces of its own, many ids are mapped,
	// and new namespaces may be made, so that container engines run. See the package comment.
	Profile string
	// SubUIDs and SubGIDs are the caller's subordinate ids, for profile "engine". Called by root, the first of them is
	// root inside.
	SubUIDs, SubGIDs []IDRange
	// Var is the host directory that becomes /var inside with profile "engine", writable and kept; empty: in memory.
	Var string
	// Debug lets the libraries of profile "engine" talk to the caller's stderr.
	Debug bool

	// SelfExe is the binary that calls [InitMain]; empty is /proc/self/exe.
	SelfExe string
	// TunPath is the TUN device; empty is /dev/net/tun.
	TunPath string
}

// DoorTProxy is the Door, and then the Kind of link, of a sandbox that has no link. DoorBoth is that of one with a link for
// what is neither TCP nor UDP.
const (
	DoorTProxy = "tproxy"
	DoorBoth   = "both"
)

// Share is one host path made visible inside.
type Share struct {
	Host     string // path outside; a missing one is an error
	Inside   string // path inside; empty is the same
	ReadOnly bool
}

// Host is one line of /etc/hosts.
type Host struct {
	Name string
	Addr netip.Addr
}

// LinkInfo describes the frames of the descriptor that [Sandbox.Link] returns.
type LinkInfo struct {
	Kind    string // "tap" (a character device: read and write) or "veth" (an AF_PACKET socket)
	VnetHdr int    // bytes of virtio_net_hdr before each frame, little-endian: 10
	TSO     bool   // frames may be TCP segments of up to 64 KiB, both ways
	USO     bool   // same for UDP
	MTU     int
}

const (
	minMTU        = 1280 // RFC 8200, section 5
	maxMTU        = 65520
	defaultMTU    = 1500
	maxHostPorts  = 64 // two descriptors each must fit one SCM_RIGHTS message (253)
	maxResolvList = 16
)

// withDefaults returns a copy of s in which every zero has been given its meaning.
func (s Spec) withDefaults() Spec {
	if s.Link == "" {
		s.Link = "auto"
	}
	if s.MTU == 0 {
		s.MTU = defaultMTU
	}
	if s.FS == "" {
		s.FS = "private"
	}
	if s.Hostname == "" {
		s.Hostname = "weir"
	}
	if s.SelfExe == "" {
		s.SelfExe = "/proc/self/exe"
	}
	if s.TunPath == "" {
		s.TunPath = "/dev/net/tun"
	}
	s.Shares = slices.Clone(s.Shares)
	for i, sh := range s.Shares {
		if sh.Inside == "" {
			s.Shares[i].Inside = sh.Host
		}
	}
	return s
}

// check refuses what cannot be built, before anything is built.
func (s Spec) check() error {
	bad := func(path, format string, args ...any) error {
		return &SetupError{Step: StepSpec, Path: path, Err: fmt.Errorf(format, args...)}
	}
	switch {
	case len(s.Command) == 0 || s.Command[0] == "":
		return bad("", "no command")
	case s.Link != "auto" && s.Link != "tap" && s.Link != "veth":
		return bad("", "link %q is not tap, veth or auto", s.Link)
	case s.Door != "" && s.Door != "netstack" && s.Door != DoorTProxy && s.Door != DoorBoth:
		return bad("", "door %q is not netstack, tproxy or both", s.Door)
	case (s.Door == DoorTProxy || s.Door == DoorBoth) && s.isEngine():
		return bad("", "profile engine needs the netstack door: root inside could change the rules of the other")
	case s.MTU < minMTU || s.MTU > maxMTU:
		return bad("", "mtu %d is not within %d..%d", s.MTU, minMTU, maxMTU)
	case s.FS != "private" && s.FS != "host":
		return bad("", "fs %q is not private or host", s.FS)
	case !s.Addr4.Is4() || !s.Gateway4.Is4():
		return bad("", "address %v and gateway %v must both be IPv4", s.Addr4, s.Gateway4)
	case s.Addr6.IsValid() && (!s.Addr6.Is6() || !s.Gateway6.Is6()):
		return bad("", "address %v and gateway %v must both be IPv6", s.Addr6, s.Gateway6)
	case len(s.GuestMAC) != 6 || len(s.GatewayMAC) != 6:
		return bad("", "guest and gateway need a MAC of 6 octets")
	case len(s.HostPorts) > maxHostPorts:
		return bad("", "%d host ports are more than %d", len(s.HostPorts), maxHostPorts)
	case len(s.Nameservers) > maxResolvList || len(s.Search) > maxResolvList || len(s.ResolvOptions) > maxResolvList:
		return bad("", "more than %d entries for resolv.conf", maxResolvList)
	case s.HomePath == "/":
		return bad(s.HomePath, "the root directory cannot be the home")
	}
	for _, w := range slices.Concat(s.Search, s.ResolvOptions, []string{s.Hostname}, hostNames(s.Hosts)) {
		if w == "" || strings.ContainsFunc(w, func(r rune) bool { return r <= ' ' || r == 0x7f || r == '#' }) {
			return bad("", "%q is no word for a configuration file", w)
		}
	}
	for name, f := range map[string]*os.File{"stdin": s.Stdin, "stdout": s.Stdout, "stderr": s.Stderr} {
		if err := checkStream(f); err != nil {
			return bad(name, "%w", err)
		}
	}
	if err := s.checkEngine(bad); err != nil {
		return err
	}
	return s.checkPaths(bad)
}

func (s Spec) checkPaths(bad func(path, format string, args ...any) error) error {
	paths := slices.Concat([]string{s.HomePath}, s.ReadOnly, s.Hide, slices.Collect(maps.Keys(s.Files)))
	for _, p := range []string{s.Home, s.Var} {
		if p != "" {
			paths = append(paths, p)
		}
	}
	for _, sh := range s.Shares {
		if path.Clean(sh.Inside) == "/" {
			return bad(sh.Host, "cannot be shown as the root directory inside")
		}
		paths = append(paths, sh.Host, sh.Inside)
	}
	for _, p := range paths {
		if !path.IsAbs(p) || strings.ContainsRune(p, 0) {
			return bad(p, "not an absolute path")
		}
	}
	return nil
}

func hostNames(hosts []Host) []string {
	names := make([]string, len(hosts))
	for i, h := range hosts {
		names[i] = h.Name
	}
	return names
}
