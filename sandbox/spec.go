//go:build linux

package sandbox

import (
	"net"
	"net/netip"
	"os"
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
	Stdin, Stdout, Stderr *os.File

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

	// HostPorts are ports on which 127.0.0.1 and ::1 inside listen for the caller; at most 64. See HostPortListeners.
	HostPorts []uint16

	// SelfExe is the binary that calls [InitMain]; empty is /proc/self/exe.
	SelfExe string
	// TunPath is the TUN device; empty is /dev/net/tun.
	TunPath string
}

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
